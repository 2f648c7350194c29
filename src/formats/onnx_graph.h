#pragma once
#include <onnx.pb.h>

#include <map>
#include <set>
#include <string_view>
#include <vector>

namespace nibble {

// What a node reads: its inputs, and values of the graph around it that graphs inside of it take. Views into the node.
std::set<std::string_view> values_read(const onnx::NodeProto& node);

// Who makes and who reads each value of a graph. Views into the graph, which must not change meanwhile.
class OnnxGraphIndex {
 public:
  // Throws Error(kCorrupt) for values made twice, read but made by nobody, and for cycles (naming a node). Nodes need
  // not be in order.
  explicit OnnxGraphIndex(const onnx::GraphProto& graph);

  // The node or initializer that makes a value; null for inputs of the graph and unknown names.
  const onnx::NodeProto* producer(std::string_view value) const;
  const onnx::TensorProto* initializer(std::string_view value) const;
  // Indices of the nodes that read a value, each once; those with a subgraph that reads it included.
  const std::vector<int>& readers(std::string_view value) const;
  bool is_output(std::string_view value) const { return outputs_.contains(value); }
  bool is_input(std::string_view value) const { return inputs_.contains(value); }
  // Is the value read inside of a subgraph?
  bool read_in_subgraph(std::string_view value) const { return nested_.contains(value); }
  // All nodes, each behind those whose values it reads; otherwise as in the file.
  const std::vector<int>& order() const { return order_; }
  // An initializer's value may be replaced by whoever runs the graph when it is an input too.
  bool is_constant(std::string_view value) const { return initializer(value) != nullptr && !is_input(value); }

 private:
  void make_order(const onnx::GraphProto& graph);

  std::map<std::string_view, const onnx::NodeProto*> producers_;
  std::map<std::string_view, int> makers_;
  std::map<std::string_view, const onnx::TensorProto*> initializers_;
  std::map<std::string_view, std::vector<int>> readers_;
  std::set<std::string_view> inputs_, outputs_, nested_;
  std::vector<int> order_;
};

}  // namespace nibble
