#include "formats/onnx_graph.h"

#include <functional>
#include <queue>

#include "core/error.h"
#include "formats/damage.h"
#include "formats/onnx_model.h"

namespace nibble {
namespace {

// Values that a graph inside of a node takes from outside.
void outer_values(const onnx::GraphProto& graph, std::set<std::string_view>& out);

void nested_values(const onnx::NodeProto& node, std::set<std::string_view>& out) {
  for (const onnx::AttributeProto& attribute : node.attribute()) {
    if (attribute.has_g()) outer_values(attribute.g(), out);
    for (const onnx::GraphProto& graph : attribute.graphs()) outer_values(graph, out);
  }
}

void outer_values(const onnx::GraphProto& graph, std::set<std::string_view>& out) {
  std::set<std::string_view> own, read;
  for (const auto& input : graph.input()) own.insert(input.name());
  for (const auto& initializer : graph.initializer()) own.insert(initializer.name());
  for (const onnx::NodeProto& node : graph.node()) {
    own.insert(node.output().begin(), node.output().end());
    read.insert(node.input().begin(), node.input().end());
    nested_values(node, read);
  }
  for (const auto& output : graph.output()) read.insert(output.name());
  for (const std::string_view name : read)
    if (!name.empty() && !own.contains(name)) out.insert(name);
}

}  // namespace

std::set<std::string_view> values_read(const onnx::NodeProto& node) {
  std::set<std::string_view> read(node.input().begin(), node.input().end());
  nested_values(node, read);
  read.erase("");
  return read;
}

OnnxGraphIndex::OnnxGraphIndex(const onnx::GraphProto& graph) {
  for (const auto& input : graph.input()) inputs_.insert(input.name());
  for (const onnx::TensorProto& tensor : graph.initializer())
    if (!initializers_.emplace(tensor.name(), &tensor).second)
      throw Error(ErrorKind::kCorrupt, cat("the initializer ", tensor.name(), " is there twice; ", kDamaged));
  for (int i = 0; i < graph.node_size(); ++i) {
    const onnx::NodeProto& node = graph.node(i);
    for (const std::string& output : node.output()) {
      if (output.empty()) continue;
      if (inputs_.contains(output) || initializers_.contains(output) || !producers_.emplace(output, &node).second)
        throw Error(ErrorKind::kCorrupt, cat("the value ", output, " is made twice, the second time by node ",
                                             onnx_node_name(node), "; ", kDamaged));
      makers_.emplace(output, i);
    }
  }
  const auto known = [&](std::string_view value) {
    return inputs_.contains(value) || initializers_.contains(value) || producers_.contains(value);
  };
  const auto expect_known = [&](std::string_view value, const std::string& reader) {
    if (!known(value))
      throw Error(ErrorKind::kCorrupt, cat(reader, " reads the value ", value, ", which nothing makes; ", kDamaged));
  };
  for (int i = 0; i < graph.node_size(); ++i) {
    const onnx::NodeProto& node = graph.node(i);
    std::set<std::string_view> read(node.input().begin(), node.input().end()), inner;
    nested_values(node, inner);
    nested_.insert(inner.begin(), inner.end());
    read.insert(inner.begin(), inner.end());
    for (const std::string_view value : read) {
      if (value.empty()) continue;
      expect_known(value, cat("node ", onnx_node_name(node)));
      readers_[value].push_back(i);
    }
  }
  for (const auto& output : graph.output()) {
    expect_known(output.name(), "the graph's output");
    outputs_.insert(output.name());
  }
  make_order(graph);
}

// Kahn's algorithm: what remains lies on or behind a cycle.
void OnnxGraphIndex::make_order(const onnx::GraphProto& graph) {
  const auto nodes = static_cast<size_t>(graph.node_size());
  std::vector<size_t> waiting(nodes);
  for (const auto& [value, readers] : readers_)
    if (makers_.contains(value))
      for (const int reader : readers) ++waiting[static_cast<size_t>(reader)];
  std::priority_queue<size_t, std::vector<size_t>, std::greater<>> ready;  // the first of the file first
  for (size_t i = 0; i < nodes; ++i)
    if (waiting[i] == 0) ready.push(i);
  while (!ready.empty()) {
    const auto next = static_cast<int>(ready.top());
    ready.pop();
    order_.push_back(next);
    for (const std::string& output : graph.node(next).output()) {
      if (output.empty()) continue;
      for (const int reader : readers(output))
        if (--waiting[static_cast<size_t>(reader)] == 0) ready.push(static_cast<size_t>(reader));
    }
  }
  if (order_.size() == nodes) return;
  size_t stuck = 0;
  while (waiting[stuck] == 0) ++stuck;
  throw Error(ErrorKind::kCorrupt,
              cat("the graph has a cycle: node ", onnx_node_name(graph.node(static_cast<int>(stuck))),
                  " depends on its own output; ", kDamaged));
}

const onnx::NodeProto* OnnxGraphIndex::producer(std::string_view value) const {
  const auto found = producers_.find(value);
  return found == producers_.end() ? nullptr : found->second;
}

const onnx::TensorProto* OnnxGraphIndex::initializer(std::string_view value) const {
  const auto found = initializers_.find(value);
  return found == initializers_.end() ? nullptr : found->second;
}

const std::vector<int>& OnnxGraphIndex::readers(std::string_view value) const {
  static const std::vector<int> none;
  const auto found = readers_.find(value);
  return found == readers_.end() ? none : found->second;
}

}  // namespace nibble
