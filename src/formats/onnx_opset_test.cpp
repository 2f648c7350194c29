#include "formats/onnx_opset.h"

#include <gmock/gmock.h>

#include <cstring>

#include "formats/onnx_model.h"
#include "formats/onnx_test_model.h"

namespace nibble {
namespace {

using testing::HasSubstr;

onnx::ModelProto graph(int64_t opset) {
  onnx::ModelProto model = empty_onnx(opset);
  model.set_ir_version(8);
  model.mutable_graph()->add_input()->set_name("x");
  return model;
}

std::vector<int64_t> integers(const onnx::TensorProto& tensor) {
  std::vector<int64_t> values(tensor.raw_data().size() / sizeof(int64_t));
  std::memcpy(values.data(), tensor.raw_data().data(), tensor.raw_data().size());
  return values;
}

TEST(OnnxOpset, AxesBecomeInputs) {
  onnx::ModelProto model = graph(17);
  onnx::NodeProto& mean = add_node(model, "ReduceMean", "mean", {"x"}, {"m"});
  set_ints(mean, "axes", {-1, 2});
  set_int(mean, "keepdims", 1);
  add_node(model, "Relu", "other", {"m"}, {"m_axes"});
  ASSERT_EQ(opset_obstacle(model, 21), "");
  EXPECT_EQ(raise_opset(model, 21), 16u);
  EXPECT_EQ(model.opset_import(0).version(), 21);
  EXPECT_EQ(model.ir_version(), 10);
  const onnx::NodeProto& raised = model.graph().node(0);
  EXPECT_EQ(find_attribute(raised, "axes"), nullptr);
  EXPECT_EQ(int_attribute(raised, "keepdims", 0), 1);
  ASSERT_EQ(model.graph().initializer_size(), 1);
  ASSERT_EQ(raised.input_size(), 2);
  EXPECT_EQ(raised.input(1), "m_axes_");  // the name was taken
  EXPECT_EQ(model.graph().initializer(0).name(), "m_axes_");
  EXPECT_EQ(model.graph().initializer(0).dims(0), 2);
  EXPECT_EQ(integers(model.graph().initializer(0)), (std::vector<int64_t>{-1, 2}));
}

TEST(OnnxOpset, SubgraphsAreRaisedToo) {
  onnx::ModelProto model = graph(13);
  onnx::GraphProto& branch = add_branch(model, "x", "y");
  add_node(branch, "Split", {"x"}, {"a", "b"});
  set_ints(add_node(branch, "ReduceMax", {"a"}, {"c"}), "axes", {0});
  raise_opset(model, 21);
  const onnx::GraphProto& inner = model.graph().node(0).attribute(0).g();
  EXPECT_EQ(int_attribute(inner.node(0), "num_outputs", 0), 2);
  EXPECT_EQ(inner.node(1).input(1), "c_axes");
  EXPECT_EQ(inner.initializer(0).name(), "c_axes");
  EXPECT_EQ(model.graph().initializer_size(), 0);
}

TEST(OnnxOpset, WhatChangedItsMeaningIsNamed) {
  onnx::ModelProto model = graph(19);
  add_node(model, "GridSample", "grid", {"x", "x"}, {"y"});
  EXPECT_THAT(opset_obstacle(model, 21), HasSubstr("node grid is a GridSample"));
  EXPECT_EQ(opset_obstacle(model, 19), "");
  model.mutable_graph()->mutable_node(0)->set_domain("com.example");  // somebody else's
  EXPECT_EQ(opset_obstacle(model, 21), "");
  EXPECT_THAT(opset_obstacle(graph(11), 21), HasSubstr("opset 11"));
  EXPECT_THAT(opset_obstacle(graph(20), 22), HasSubstr("newest"));
}

TEST(OnnxOpset, NothingIsLowered) {
  onnx::ModelProto model = graph(22);
  set_ints(add_node(model, "ReduceMean", "mean", {"x"}, {"m"}), "axes", {0});
  const std::string before = model.SerializeAsString();
  EXPECT_EQ(opset_obstacle(model, 21), "");
  raise_opset(model, 21);
  EXPECT_EQ(model.SerializeAsString(), before);
}

}  // namespace
}  // namespace nibble
