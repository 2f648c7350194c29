#include "model/onnx_interpreter.h"

#include <gmock/gmock.h>

#include "core/test_errors.h"
#include "formats/onnx_test_model.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Runs one node on constants c0, c1...
class OnnxOperators : public testing::Test {
 protected:
  void add(std::initializer_list<int64_t> shape, const std::vector<float>& values) {
    add_floats(model_, cat("c", inputs_++), shape, values);
  }
  void add(std::initializer_list<int64_t> shape, const std::vector<int64_t>& values) {
    add_integers(model_, cat("c", inputs_++), shape, values);
  }
  onnx::NodeProto& node(const std::string& type) {
    onnx::NodeProto& node = add_node(model_, type, "node", {}, {"y"});
    for (int i = 0; i < inputs_; ++i) node.add_input(cat("c", i));
    return node;
  }
  OnnxArray run() {
    model_.mutable_graph()->add_output()->set_name("y");
    const std::string bytes = model_.SerializeAsString();
    const auto model = OnnxModel::parse(bytes_of(bytes), nullptr);
    const OnnxGraphIndex index(model->graph());
    OnnxInterpreter interpreter(model, index, {});
    interpreter.keep("y");
    interpreter.run();
    return *interpreter.value("y");
  }
  onnx::ModelProto model_ = empty_onnx();
  int inputs_ = 0;
};

TEST_F(OnnxOperators, PairsAreBroadcast) {
  add({2, 1}, std::vector<float>{10, 20});
  add({3}, std::vector<float>{1, 2, 3});
  node("Sub");
  const OnnxArray y = run();
  EXPECT_EQ(y.shape, (Shape{2, 3}));
  EXPECT_THAT(y.v, ElementsAre(9, 8, 7, 19, 18, 17));
}

TEST_F(OnnxOperators, IntegersAreDividedAsSuch) {
  add({3}, std::vector<int64_t>{7, -7, 8});
  add({1}, std::vector<int64_t>{2});
  node("Div");
  EXPECT_THAT(run().v, ElementsAre(3, -3, 4));
}

// Two heads side by side, which share keys: the first token sees itself alone, the second both alike.
TEST_F(OnnxOperators, AttentionIsCausalWhereItSaysSo) {
  add({1, 2, 2}, std::vector<float>{5, -3, 0, 0});
  add({1, 2, 1}, std::vector<float>{1, 2});
  add({1, 2, 1}, std::vector<float>{10, 20});
  onnx::NodeProto& attention = node("Attention");
  set_int(attention, "q_num_heads", 2);
  set_int(attention, "kv_num_heads", 1);
  set_int(attention, "is_causal", 1);
  const OnnxArray y = run();
  EXPECT_EQ(y.shape, (Shape{1, 2, 2}));
  EXPECT_THAT(y.v, ElementsAre(10, 10, 15, 15));
}

TEST_F(OnnxOperators, AttentionAddsItsMask) {
  add({1, 1, 1, 2}, std::vector<float>{2, 0});
  add({1, 1, 2, 2}, std::vector<float>{1, 9, 3, 9});
  add({1, 1, 2, 1}, std::vector<float>{0, 1});
  add({1, 2}, std::vector<float>{1, -1});
  set_float(node("Attention"), "scale", 0.5f);  // scores 1 + 1 and 3 - 1
  EXPECT_THAT(run().v, ElementsAre(0.5));
}

TEST_F(OnnxOperators, RotationsLookAnglesUp) {
  add({1, 1, 1, 5}, std::vector<float>{1, 2, 3, 4, 7});
  add({2, 2}, std::vector<float>{1, 1, 0, 0});
  add({2, 2}, std::vector<float>{0, 0, 1, 1});
  add({1, 1}, std::vector<int64_t>{1});
  onnx::NodeProto& rotation = node("RotaryEmbedding");
  set_int(rotation, "interleaved", 1);
  set_int(rotation, "rotary_embedding_dim", 4);
  EXPECT_THAT(run().v, ElementsAre(-2, 1, -4, 3, 7));
}

TEST_F(OnnxOperators, SlicesCountFromTheEndToo) {
  add({2, 5}, std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  add({1}, std::vector<int64_t>{-4});
  add({1}, std::vector<int64_t>{INT64_MAX});
  add({1}, std::vector<int64_t>{-1});
  add({1}, std::vector<int64_t>{2});
  node("Slice");
  const OnnxArray y = run();
  EXPECT_EQ(y.shape, (Shape{2, 2}));
  EXPECT_THAT(y.v, ElementsAre(1, 3, 6, 8));
}

TEST_F(OnnxOperators, AxesChangePlaces) {
  add({1, 2, 3}, std::vector<float>{0, 1, 2, 3, 4, 5});
  set_ints(node("Transpose"), "perm", {2, 0, 1});
  const OnnxArray y = run();
  EXPECT_EQ(y.shape, (Shape{3, 1, 2}));
  EXPECT_THAT(y.v, ElementsAre(0, 3, 1, 4, 2, 5));
}

TEST_F(OnnxOperators, PartsAreJoinedAlongAnAxis) {
  add({2, 1}, std::vector<float>{1, 2});
  add({2, 2}, std::vector<float>{3, 4, 5, 6});
  set_int(node("Concat"), "axis", -1);
  const OnnxArray y = run();
  EXPECT_EQ(y.shape, (Shape{2, 3}));
  EXPECT_THAT(y.v, ElementsAre(1, 3, 4, 2, 5, 6));
}

TEST_F(OnnxOperators, ShapesLeaveOneExtentOpen) {
  add({2, 6}, std::vector<float>(12));
  add({3}, std::vector<int64_t>{0, -1, 3});
  node("Reshape");
  EXPECT_EQ(run().shape, (Shape{2, 2, 3}));
}

TEST_F(OnnxOperators, RowsAreLookedUp) {
  add({2, 2, 2}, std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7});
  add({2}, std::vector<int64_t>{-1, 0});
  set_int(node("Gather"), "axis", 1);
  EXPECT_THAT(run().v, ElementsAre(2, 3, 0, 1, 6, 7, 4, 5));
}

TEST_F(OnnxOperators, ElementsAreLookedUp) {
  add({2, 2}, std::vector<float>{0, 1, 2, 3});
  add({2, 2}, std::vector<int64_t>{0, 1, 1, 0});
  node("GatherND");
  const OnnxArray y = run();
  EXPECT_EQ(y.shape, (Shape{2}));
  EXPECT_THAT(y.v, ElementsAre(1, 2));
}

TEST_F(OnnxOperators, BatchesOfMatricesAreMultiplied) {
  add({2, 1, 2}, std::vector<float>{1, 2, 3, 4});
  add({1, 2, 2}, std::vector<float>{1, 10, 100, 1000});
  node("MatMul");
  const OnnxArray y = run();
  EXPECT_EQ(y.shape, (Shape{2, 1, 2}));
  EXPECT_THAT(y.v, ElementsAre(201, 2010, 403, 4030));
}

TEST_F(OnnxOperators, TrianglesAreKept) {
  add({2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6});
  add({1}, std::vector<int64_t>{1});
  node("Trilu");
  EXPECT_THAT(run().v, ElementsAre(0, 2, 3, 0, 0, 6));
}

TEST_F(OnnxOperators, SoftmaxAndMeans) {
  add({2, 2}, std::vector<float>{0, std::log(3.0f), -1e38f, 2});
  node("Softmax");
  const OnnxArray y = run();
  EXPECT_NEAR(y.v[0], 0.25, 1e-7);
  EXPECT_NEAR(y.v[1], 0.75, 1e-7);
  EXPECT_EQ(y.v[2], 0);
  EXPECT_EQ(y.v[3], 1);
}

TEST_F(OnnxOperators, AxesOfMeansMayBeAttributes) {
  add({2, 2}, std::vector<float>{1, 3, 5, 8});
  set_ints(node("ReduceMean"), "axes", {-1});
  const OnnxArray y = run();
  EXPECT_EQ(y.shape, (Shape{2, 1}));
  EXPECT_THAT(y.v, ElementsAre(2, 6.5));
}

TEST_F(OnnxOperators, NormsDivideByTheRootOfTheMeanSquare) {
  add({1, 2}, std::vector<float>{3, 4});
  add({2}, std::vector<float>{1, 10});
  set_float(node("RMSNormalization"), "epsilon", 0.5f);
  const OnnxArray y = run();
  EXPECT_NEAR(y.v[0], 3 / std::sqrt(13.0), 1e-9);
  EXPECT_NEAR(y.v[1], 40 / std::sqrt(13.0), 1e-9);
}

TEST_F(OnnxOperators, RangesCount) {
  add({}, std::vector<int64_t>{1});
  add({}, std::vector<int64_t>{8});
  add({}, std::vector<int64_t>{3});
  node("Range");
  EXPECT_THAT(run().v, ElementsAre(1, 4, 7));
}

TEST_F(OnnxOperators, WhatContradictsItselfIsRefused) {
  add({2}, std::vector<float>{1, 2});
  add({3}, std::vector<float>{1, 2, 3});
  node("Add");
  EXPECT_THAT(error_text([&] { run(); }), HasSubstr("node node: shapes"));
  add({1}, std::vector<int64_t>{5});
  for (const char* type : {"Gather", "Reshape", "Expand", "Unsqueeze", "Slice", "Where", "Range", "MatMul", "Trilu"}) {
    onnx::NodeProto& last = *model_.mutable_graph()->mutable_node(0);
    last.set_op_type(type);
    last.clear_input();
    for (const char* input : {"c0", "c2"}) last.add_input(input);
    EXPECT_NE(error_text([&] { run(); }), "") << type;
  }
  model_.mutable_graph()->mutable_node(0)->set_op_type("Sinh");
  EXPECT_THAT(error_text([&] { run(); }), HasSubstr("is a Sinh, which nibble does not compute"));
}

TEST_F(OnnxOperators, HugeValuesAreRefused) {
  add({1}, std::vector<float>{1});
  add({3}, std::vector<int64_t>{1 << 20, 1 << 20, 1 << 20});
  node("Expand");
  EXPECT_THAT(error_text([&] { run(); }), HasSubstr("too large"));
}

}  // namespace
}  // namespace nibble
