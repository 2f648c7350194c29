#include "export/onnx_input_factors.h"

#include <gmock/gmock.h>

#include "core/random.h"
#include "export/onnx_evaluator.h"
#include "formats/onnx_test_model.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::UnorderedElementsAre;
using Values = std::vector<float>;

constexpr size_t kCols = 6, kTokens = 4;

Values random_values(size_t count, uint64_t seed) {
  Random random(seed);
  Values values(count);
  for (float& value : values) value = static_cast<float>(0.5 + random.uniform());
  return values;
}

std::shared_ptr<const OnnxModel> parsed(const onnx::ModelProto& proto) {
  const auto bytes = std::make_shared<std::string>(proto.SerializeAsString());
  return OnnxModel::parse(bytes_of(*bytes), bytes);
}

std::vector<std::string> operators(const onnx::ModelProto& model) {
  std::vector<std::string> types;
  for (const onnx::NodeProto& node : model.graph().node()) types.push_back(node.op_type());
  return types;
}

// x -> Mul gain -> Add offset -> two products, as a decomposed norm ends.
onnx::ModelProto affine_graph() {
  onnx::ModelProto model = empty_onnx();
  model.mutable_graph()->add_input()->set_name("x");
  add_floats(model, "gain", {kCols}, random_values(kCols, 1));
  add_floats(model, "offset", {1, kCols}, random_values(kCols, 2));
  add_floats(model, "w", {kCols, 3}, random_values(kCols * 3, 3));
  add_floats(model, "v", {kCols, 2}, random_values(kCols * 2, 4));
  add_node(model, "Mul", "gain", {"gain", "x"}, {"a"});
  add_node(model, "Add", "offset", {"a", "offset"}, {"b"});
  add_node(model, "MatMul", "first", {"b", "w"}, {"y"});
  add_node(model, "MatMul", "second", {"b", "v"}, {"z"});
  for (const char* name : {"y", "z"}) model.mutable_graph()->add_output()->set_name(name);
  return model;
}

Values outputs(const onnx::ModelProto& proto, const std::string& name) {
  const auto model = parsed(proto);
  OnnxEvaluator evaluator(*model);
  const Values x = random_values(kTokens * kCols, 5);
  evaluator["x"] = {kTokens, kCols, {x.begin(), x.end()}};
  evaluator.run();
  return {evaluator[name].v.begin(), evaluator[name].v.end()};
}

// The graph with factors for these products' inputs, and their weights divided by them.
onnx::ModelProto scaled(onnx::ModelProto proto, const std::map<int, Values>& factors) {
  const auto model = parsed(proto);
  const OnnxGraphIndex index(model->graph());
  std::map<int, const Values*> nodes;
  for (const auto& [node, values] : factors) nodes.emplace(node, &values);
  OnnxSplice splice(index, {});
  std::set<std::string> unused;
  const OnnxInputFactors inputs(*model, index, nodes);
  inputs.fold(splice, unused);
  for (const auto& [i, values] : factors) {
    onnx::NodeProto node = proto.graph().node(i);
    OnnxReplacement replacement = inputs.before(i, node, onnx_type::kFloat);
    replacement.nodes.push_back(node);
    splice.replace(i, replacement);
    for (onnx::TensorProto& weight : *proto.mutable_graph()->mutable_initializer()) {
      if (weight.name() != node.input(1)) continue;
      Values w(weight.raw_data().size() / sizeof(float));
      std::memcpy(w.data(), weight.raw_data().data(), weight.raw_data().size());
      for (size_t k = 0; k < w.size(); ++k) w[k] /= values[k / (w.size() / kCols)];
      weight.set_raw_data(w.data(), w.size() * sizeof(float));
    }
  }
  splice.apply(*proto.mutable_graph());
  return proto;
}

void expect_same_outputs(const onnx::ModelProto& changed, const onnx::ModelProto& original) {
  for (const char* name : {"y", "z"}) {
    const Values got = outputs(changed, name), want = outputs(original, name);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-5 * want[i]) << name;
  }
}

TEST(OnnxInputFactors, GoIntoTheConstantsThatMakeTheInputs) {
  const onnx::ModelProto original = affine_graph();
  const Values factors = random_values(kCols, 6);
  const onnx::ModelProto changed = scaled(original, {{2, factors}, {3, factors}});
  EXPECT_THAT(operators(changed), ElementsAre("Mul", "Add", "MatMul", "MatMul"));
  expect_same_outputs(changed, original);
  EXPECT_NE(outputs(changed, "b"), outputs(original, "b"));
}

TEST(OnnxInputFactors, BecomeAMulWhereOthersReadTheValueOrDifferFromIt) {
  const onnx::ModelProto original = affine_graph();
  const Values factors = random_values(kCols, 6), others = random_values(kCols, 7);
  // The second product keeps its inputs.
  const onnx::ModelProto one = scaled(original, {{2, factors}});
  EXPECT_THAT(operators(one), ElementsAre("Mul", "Add", "Mul", "MatMul", "MatMul"));
  expect_same_outputs(one, original);
  const onnx::ModelProto two = scaled(original, {{2, factors}, {3, others}});
  EXPECT_THAT(operators(two), ElementsAre("Mul", "Add", "Mul", "MatMul", "Mul", "MatMul"));
  expect_same_outputs(two, original);
  // An output of the graph stays what it was; products of one value share the Mul.
  onnx::ModelProto seen = original;
  seen.mutable_graph()->add_output()->set_name("b");
  const onnx::ModelProto shared = scaled(seen, {{2, factors}, {3, factors}});
  EXPECT_THAT(operators(shared), ElementsAre("Mul", "Add", "Mul", "MatMul", "MatMul"));
  expect_same_outputs(shared, original);
  EXPECT_EQ(outputs(shared, "b"), outputs(original, "b"));
}

// Which inputs of the node that makes b changed.
std::vector<std::string> changed_inputs(const std::string& op, std::initializer_list<std::string> inputs,
                                        bool other_reader = false) {
  onnx::ModelProto model = empty_onnx();
  for (const char* name : {"x", "skip"}) model.mutable_graph()->add_input()->set_name(name);
  for (const char* name : {"gain", "offset", "bias"}) add_floats(model, name, {kCols}, random_values(kCols, 1));
  add_floats(model, "w", {kCols, 3}, random_values(kCols * 3, 3));
  add_node(model, op, "norm", inputs, {"b"});
  add_node(model, "MatMul", "first", {"b", "w"}, {"y"});
  if (other_reader) add_node(model, "Identity", "other", {"b"}, {"z"});
  const onnx::ModelProto changed = scaled(model, {{1, random_values(kCols, 6)}});
  std::vector<std::string> found;
  const onnx::NodeProto& before = model.graph().node(0);
  for (int i = 0; i < before.input_size(); ++i)
    if (changed.graph().node(0).input(i) != before.input(i)) found.push_back(before.input(i));
  return found;
}

TEST(OnnxInputFactors, NormsTakeThemInWeightAndBias) {
  EXPECT_THAT(changed_inputs("LayerNormalization", {"x", "gain", "offset"}), UnorderedElementsAre("gain", "offset"));
  EXPECT_THAT(changed_inputs("LayerNormalization", {"x", "gain"}), ElementsAre("gain"));
  EXPECT_THAT(changed_inputs("RMSNormalization", {"x", "gain"}), ElementsAre("gain"));
  EXPECT_THAT(changed_inputs("SimplifiedLayerNormalization", {"x", "gain"}), ElementsAre("gain"));
  EXPECT_THAT(changed_inputs("SkipSimplifiedLayerNormalization", {"x", "skip", "gain"}), ElementsAre("gain"));
  // The bias that is added before the norm is none of its outputs.
  EXPECT_THAT(changed_inputs("SkipLayerNormalization", {"x", "skip", "gain", "offset", "bias"}),
              UnorderedElementsAre("gain", "offset"));
  EXPECT_THAT(changed_inputs("LayerNormalization", {"x", "gain", "offset"}, /*other_reader=*/true), ElementsAre());
  EXPECT_THAT(changed_inputs("Gelu", {"x"}), ElementsAre());
}

}  // namespace
}  // namespace nibble
