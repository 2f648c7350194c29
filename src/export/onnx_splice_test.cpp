#include "export/onnx_splice.h"

#include <gmock/gmock.h>

#include "core/test_errors.h"
#include "formats/onnx_test_model.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

onnx::NodeProto node(const std::string& type, std::initializer_list<std::string> inputs, const std::string& output) {
  onnx::ModelProto model;
  return add_node(model, type, type, inputs, {output});
}

onnx::TensorProto constant(const std::string& name, const std::string& bytes) {
  onnx::TensorProto tensor;
  tensor.set_name(name);
  tensor.set_data_type(onnx_type::kUint8);
  tensor.set_raw_data(bytes);
  return tensor;
}

// x -> A -> a -> B -> b, and x -> C -> x_rounded.
onnx::ModelProto graph() {
  onnx::ModelProto model = empty_onnx();
  model.mutable_graph()->add_input()->set_name("x");
  add_node(model, "A", "A", {"x"}, {"a"});
  add_node(model, "B", "B", {"a"}, {"b"});
  add_node(model, "C", "C", {"x"}, {"x_rounded"});
  return model;
}

std::vector<std::string> lines(const onnx::GraphProto& graph) {
  std::vector<std::string> out;
  for (const onnx::NodeProto& each : graph.node()) {
    std::string line = each.op_type() + "(";
    for (const std::string& input : each.input()) line += input + " ";
    out.push_back(line + ") " + each.output(0));
  }
  return out;
}

TEST(OnnxSplice, SharedValuesComeOnceAndNamesStayApart) {
  onnx::ModelProto model = graph();
  const onnx::ModelProto before = model;
  const OnnxGraphIndex index(before.graph());
  const std::string once = onnx_new("x_rounded_once"), other = onnx_new("x_rounded"), zero = onnx_new("zero");
  OnnxSplice splice(index, {"zero"});
  splice.replace(2, {{node("Round", {"x", zero}, once), node("Use", {once}, "x_rounded")}, {constant(zero, "\x05")}});
  // It makes a value whose name the graph has for something else.
  splice.replace(
      0, {{node("Round", {"x", zero}, once), node("Mul", {once}, other), node("Add", {other, "x_rounded"}, "a")},
          {constant(zero, "\x05")}});
  EXPECT_EQ(splice.apply(*model.mutable_graph()), 1u);
  EXPECT_THAT(lines(model.graph()),
              ElementsAre("Round(x zero_ ) x_rounded_once", "Mul(x_rounded_once ) x_rounded_",
                          "Add(x_rounded_ x_rounded ) a", "B(a ) b", "Use(x_rounded_once ) x_rounded"));
  ASSERT_EQ(model.graph().initializer_size(), 1);
  EXPECT_EQ(model.graph().initializer(0).name(), "zero_");
}

TEST(OnnxSplice, ConstantsThatDifferAreNoticed) {
  onnx::ModelProto model = graph();
  const onnx::ModelProto before = model;
  const OnnxGraphIndex index(before.graph());
  OnnxSplice splice(index, {});
  splice.replace(0, {{node("Round", {"x"}, "a")}, {constant(onnx_new("scale"), "1")}});
  splice.replace(2, {{node("Round", {"x"}, "x_rounded")}, {constant(onnx_new("scale"), "2")}});
  EXPECT_THAT(error_text([&] { splice.apply(*model.mutable_graph()); }), HasSubstr("node C"));
}

}  // namespace
}  // namespace nibble
