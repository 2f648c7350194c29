#pragma once
#include <onnx.pb.h>

#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

// For tests: makes graphs by hand.
inline onnx::ModelProto empty_onnx(int64_t opset = 21) {
  onnx::ModelProto model;
  model.set_ir_version(10);
  model.add_opset_import()->set_version(opset);
  model.mutable_graph()->set_name("test");
  return model;
}

inline onnx::TensorProto& add_floats(onnx::ModelProto& model, const std::string& name,
                                     std::initializer_list<int64_t> shape, const std::vector<float>& values) {
  onnx::TensorProto& tensor = *model.mutable_graph()->add_initializer();
  tensor.set_name(name);
  tensor.set_data_type(1);
  for (const int64_t extent : shape) tensor.add_dims(extent);
  tensor.set_raw_data(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return tensor;
}

inline onnx::TensorProto& add_bytes(onnx::ModelProto& model, const std::string& name,
                                    std::initializer_list<int64_t> shape, const std::string& bytes, int type = 2) {
  onnx::TensorProto& tensor = add_floats(model, name, shape, {});
  tensor.set_data_type(type);
  tensor.set_raw_data(bytes);
  return tensor;
}

inline onnx::TensorProto& add_integers(onnx::ModelProto& model, const std::string& name,
                                       std::initializer_list<int64_t> shape, const std::vector<int64_t>& values) {
  return add_bytes(model, name, shape,
                   std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int64_t)), 7);
}

inline onnx::NodeProto& add_node(onnx::GraphProto& graph, const std::string& type,
                                 std::initializer_list<std::string> inputs,
                                 std::initializer_list<std::string> outputs) {
  onnx::NodeProto& node = *graph.add_node();
  node.set_op_type(type);
  for (const std::string& input : inputs) node.add_input(input);
  for (const std::string& output : outputs) node.add_output(output);
  return node;
}

inline onnx::NodeProto& add_node(onnx::ModelProto& model, const std::string& type, const std::string& name,
                                 std::initializer_list<std::string> inputs,
                                 std::initializer_list<std::string> outputs) {
  onnx::NodeProto& node = add_node(*model.mutable_graph(), type, inputs, outputs);
  node.set_name(name);
  return node;
}

// An If with one branch, which is for the caller to fill.
inline onnx::GraphProto& add_branch(onnx::ModelProto& model, const std::string& condition, const std::string& output) {
  onnx::AttributeProto& branch = *add_node(model, "If", "if", {condition}, {output}).add_attribute();
  branch.set_name("then_branch");
  return *branch.mutable_g();
}

inline void set_ints(onnx::NodeProto& node, const std::string& name, std::initializer_list<int64_t> values) {
  onnx::AttributeProto& attribute = *node.add_attribute();
  attribute.set_name(name);
  attribute.set_type(7);
  for (const int64_t value : values) attribute.add_ints(value);
}

inline void set_int(onnx::NodeProto& node, const std::string& name, int64_t value) {
  onnx::AttributeProto& attribute = *node.add_attribute();
  attribute.set_name(name);
  attribute.set_type(2);
  attribute.set_i(value);
}

inline void set_float(onnx::NodeProto& node, const std::string& name, float value) {
  onnx::AttributeProto& attribute = *node.add_attribute();
  attribute.set_name(name);
  attribute.set_type(1);
  attribute.set_f(value);
}

inline std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

}  // namespace nibble
