#include "formats/onnx_opset.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "core/error.h"
#include "formats/onnx_model.h"

namespace nibble {
namespace {

constexpr int64_t kOldest = 13, kNewest = 21;
constexpr int64_t kReduceInputs = 18, kSplitOutputs = 18;

struct Change {
  std::string_view op;
  int64_t since;
  std::string_view what;
};

constexpr std::array kChanges = {
    Change{"BatchNormalization", 14, "whose outputs"},   Change{"RoiAlign", 16, "whose default coordinates"},
    Change{"Resize", 18, "whose rounding and axes"},     Change{"Resize", 19, "whose coordinates"},
    Change{"GridSample", 20, "whose names of modes"},    Change{"DFT", 20, "whose axis"},
    Change{"GroupNormalization", 21, "whose parameters"}};

// Of ReduceSum they have been inputs since 13.
bool reduces(const onnx::NodeProto& node) {
  return node.op_type().starts_with("Reduce") && node.op_type() != "ReduceSum" &&
         find_attribute(node, "axes") != nullptr;
}

bool standard(const std::string& domain) { return domain.empty() || domain == "ai.onnx"; }

int64_t version_of(const onnx::ModelProto& model) {
  int64_t version = 0;
  for (const onnx::OperatorSetIdProto& set : model.opset_import())
    if (standard(set.domain())) version = set.version();
  return version;
}

// Calls visit(node, the graph that holds it) for all nodes, those of subgraphs too.
template <class Graph, class Visit>
void each_node(Graph& graph, const Visit& visit) {
  if constexpr (std::is_const_v<Graph>) {
    for (const onnx::NodeProto& node : graph.node()) {
      for (const onnx::AttributeProto& attribute : node.attribute()) {
        if (attribute.has_g()) each_node(attribute.g(), visit);
        for (const onnx::GraphProto& inner : attribute.graphs()) each_node(inner, visit);
      }
      visit(node, graph);
    }
  } else {
    for (onnx::NodeProto& node : *graph.mutable_node()) {
      for (onnx::AttributeProto& attribute : *node.mutable_attribute()) {
        if (attribute.has_g()) each_node(*attribute.mutable_g(), visit);
        for (onnx::GraphProto& inner : *attribute.mutable_graphs()) each_node(inner, visit);
      }
      visit(node, graph);
    }
  }
}

std::set<std::string> names_in(const onnx::GraphProto& graph) {
  std::set<std::string> names;
  const auto add = [&](const onnx::GraphProto& inner) {
    for (const auto& input : inner.input()) names.insert(input.name());
    for (const auto& tensor : inner.initializer()) names.insert(tensor.name());
  };
  add(graph);
  each_node(graph, [&](const onnx::NodeProto& node, const onnx::GraphProto& holder) {
    add(holder);
    names.insert(node.output().begin(), node.output().end());
  });
  return names;
}

size_t move_axes(onnx::NodeProto& node, onnx::GraphProto& graph, std::set<std::string>& names) {
  std::string name = node.output(0) + "_axes";
  while (!names.insert(name).second) name += '_';
  onnx::TensorProto& axes = *graph.add_initializer();
  axes.set_name(name);
  axes.set_data_type(onnx_type::kInt64);
  auto& attributes = *node.mutable_attribute();
  const auto attribute = std::find_if(attributes.begin(), attributes.end(),
                                      [](const onnx::AttributeProto& each) { return each.name() == "axes"; });
  axes.add_dims(attribute->ints_size());
  axes.set_raw_data(attribute->ints().data(), static_cast<size_t>(attribute->ints_size()) * sizeof(int64_t));
  attributes.erase(attribute);
  node.add_input(name);
  return axes.raw_data().size();
}

}  // namespace

std::string opset_obstacle(const onnx::ModelProto& model, int64_t version) {
  const int64_t found = version_of(model);
  if (found >= version) return "";
  if (found < kOldest) return cat("operators changed their meaning between opset ", found, " and ", kOldest);
  if (version > kNewest) return cat("opset ", version, " is newer than ", kNewest, ", the newest that nibble knows");
  std::string obstacle;
  each_node(model.graph(), [&](const onnx::NodeProto& node, const onnx::GraphProto&) {
    if (!obstacle.empty() || !standard(node.domain())) return;
    for (const Change& change : kChanges)
      if (node.op_type() == change.op && found < change.since && change.since <= version)
        obstacle = cat("node ", onnx_node_name(node), " is a ", change.op, ", ", change.what, " changed with opset ",
                       change.since);
  });
  return obstacle;
}

size_t raise_opset(onnx::ModelProto& model, int64_t version) {
  const int64_t found = version_of(model);
  if (found >= version) return 0;
  size_t bytes = 0;
  std::set<std::string> names = names_in(model.graph());
  each_node(*model.mutable_graph(), [&](onnx::NodeProto& node, onnx::GraphProto& graph) {
    if (!standard(node.domain())) return;
    if (found < kReduceInputs && version >= kReduceInputs && reduces(node)) bytes += move_axes(node, graph, names);
    const bool sized = node.input_size() > 1 && !node.input(1).empty();
    if (found < kSplitOutputs && version >= kSplitOutputs && node.op_type() == "Split" && !sized) {
      onnx::AttributeProto& outputs = *node.add_attribute();
      outputs.set_name("num_outputs");
      outputs.set_type(2);
      outputs.set_i(node.output_size());
    }
  });
  for (onnx::OperatorSetIdProto& set : *model.mutable_opset_import())
    if (standard(set.domain())) set.set_version(version);
  constexpr int64_t kIrOf21 = 10;  // the first with 4-bit integers
  if (version == kNewest) model.set_ir_version(std::max(model.ir_version(), kIrOf21));
  return bytes;
}

}  // namespace nibble
