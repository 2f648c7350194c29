#include "export/onnx_splice.h"

#include "core/error.h"

namespace nibble {

std::string OnnxSplice::final_name(const std::string& name) {
  const std::string mark = onnx_new("");
  if (!name.starts_with(mark)) return name;
  const auto [entry, is_new] = final_.emplace(name, name.substr(mark.size()));
  std::string& free = entry->second;
  if (!is_new) return free;
  while (index_.producer(free) || index_.initializer(free) || index_.is_input(free) || !taken_.insert(free).second)
    free += '_';
  return free;
}

size_t OnnxSplice::apply(onnx::GraphProto& graph) {
  size_t bytes = 0;
  std::map<std::string, std::string> constants;  // contents
  std::set<std::string> made;
  google::protobuf::RepeatedPtrField<onnx::NodeProto> nodes;
  for (int i = 0; i < graph.node_size(); ++i) {
    const auto found = replacements_.find(i);
    if (found == replacements_.end()) {
      nodes.Add()->Swap(graph.mutable_node(i));
      continue;
    }
    for (onnx::TensorProto& constant : found->second.constants) {
      constant.set_name(final_name(constant.name()));
      const auto [same, is_new] = constants.emplace(constant.name(), constant.raw_data());
      if (same->second != constant.raw_data())
        throw Error(ErrorKind::kUsage, cat("node ", onnx_node_name(graph.node(i)), ": its input is ", constant.name(),
                                           " for another node too, which rounds it in another way; round both alike"));
      if (!is_new) continue;
      bytes += constant.raw_data().size();
      *graph.add_initializer() = constant;
    }
    for (onnx::NodeProto& node : found->second.nodes) {
      for (std::string& input : *node.mutable_input()) input = final_name(input);
      for (std::string& output : *node.mutable_output()) output = final_name(output);
      node.set_name(final_name(node.name()));
      if (made.insert(node.output(0)).second) *nodes.Add() = node;
    }
  }
  graph.mutable_node()->Swap(&nodes);
  return bytes;
}

}  // namespace nibble
