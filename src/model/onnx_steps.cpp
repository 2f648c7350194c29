#include "model/onnx_steps.h"

#include <algorithm>
#include <map>
#include <optional>

#include "core/error.h"

namespace nibble {
namespace {

bool is_random(const onnx::NodeProto& node) {
  return node.op_type().starts_with("Random") || node.op_type() == "Multinomial" || node.op_type() == "Bernoulli";
}

// The tensor of a Constant node; null for other nodes and other kinds of constants.
const onnx::TensorProto* constant_tensor(const onnx::NodeProto& node) {
  if (node.op_type() != "Constant" || node.output_size() != 1) return nullptr;
  const onnx::AttributeProto* value = find_attribute(node, "value");
  return value && value->has_t() ? &value->t() : nullptr;
}

class Cutter {
 public:
  Cutter(const onnx::GraphProto& graph, const OnnxGraphIndex& index, const std::set<int>& cuts,
         const std::set<std::string>& wanted)
      : graph_(graph), index_(index), wanted_(wanted) {
    for (const std::string& value : wanted)
      if (!index.producer(value) && !index.initializer(value) && !index.is_input(value))
        throw Error(ErrorKind::kUsage, cat("the graph has no value ", value));
    find_makers();
    find_constants();
    find_levels(cuts);
    find_needed();
  }

  std::vector<OnnxStep> cut() {
    size_t last = 0;
    for (const int i : index_.order())
      if (needed_.contains(i) && !constant_.contains(i)) last = std::max(last, level_[static_cast<size_t>(i)]);
    std::vector<OnnxStep> steps(last + 1);
    fill(steps);
    connect(steps);
    return steps;
  }

 private:
  const onnx::NodeProto& node(int i) const { return graph_.node(i); }

  void find_makers() {
    for (int i = 0; i < graph_.node_size(); ++i)
      for (const std::string& output : node(i).output())
        if (!output.empty()) makers_.emplace(output, i);
  }
  // The node that makes a value when the graph runs; nothing for what is there before: inputs and initializers.
  std::optional<int> maker(std::string_view value) const {
    const auto found = makers_.find(value);
    return found == makers_.end() ? std::nullopt : std::optional(found->second);
  }
  // Initializers count as constants even where a caller may replace them: we never do.
  bool is_constant(std::string_view value) const {
    const auto made = maker(value);
    return made ? constant_.contains(*made) : index_.initializer(value) != nullptr;
  }

  void find_constants() {
    for (const int i : index_.order()) {
      const auto read = values_read(node(i));
      if (!is_random(node(i)) && std::all_of(read.begin(), read.end(), [&](auto value) { return is_constant(value); }))
        constant_.insert(i);
    }
  }

  // The step in which each node runs.
  void find_levels(const std::set<int>& cuts) {
    level_.resize(static_cast<size_t>(graph_.node_size()));
    for (const int i : index_.order()) {
      size_t level = 0;
      for (const std::string_view value : values_read(node(i)))
        if (const auto made = maker(value)) level = std::max(level, level_[static_cast<size_t>(*made)]);
      level_[static_cast<size_t>(i)] = level + (cuts.contains(i) ? 1 : 0);
    }
  }

  void find_needed() {
    std::vector<int> open;
    const auto need = [&](std::string_view value) {
      if (const auto made = maker(value); made && needed_.insert(*made).second) open.push_back(*made);
    };
    for (const std::string& value : wanted_) need(value);
    while (!open.empty()) {
      const int i = open.back();
      open.pop_back();
      for (const std::string_view value : values_read(node(i))) need(value);
    }
  }

  // Nodes and constants of every step: constant nodes where they are read.
  void fill(std::vector<OnnxStep>& steps) {
    std::vector<std::set<int>> members(steps.size());
    for (const int i : index_.order())
      if (needed_.contains(i) && !constant_.contains(i)) members[level_[static_cast<size_t>(i)]].insert(i);
    for (size_t s = 0; s < steps.size(); ++s) {
      std::vector<int> open(members[s].begin(), members[s].end());
      std::set<std::string_view> tensors;
      while (!open.empty()) {
        const int i = open.back();
        open.pop_back();
        for (const std::string_view value : values_read(node(i))) {
          if (!is_constant(value)) continue;
          const auto made = maker(value);
          const onnx::TensorProto* tensor = made ? constant_tensor(node(*made)) : index_.initializer(value);
          if (tensor && tensors.insert(value).second) steps[s].constants.emplace_back(value, tensor);
          if (!tensor && members[s].insert(*made).second) open.push_back(*made);
        }
      }
      for (const int i : index_.order())
        if (members[s].contains(i)) steps[s].nodes.push_back(i);
    }
  }

  void connect(std::vector<OnnxStep>& steps) const {
    std::map<std::string_view, size_t> last_reader;  // of values that pass between steps
    for (size_t s = 0; s < steps.size(); ++s) {
      std::set<std::string_view> read;
      for (const int i : steps[s].nodes) read.merge(values_read(node(i)));
      for (const std::string_view value : read) {
        if (is_constant(value)) continue;
        const auto made = maker(value);
        if (made && level_[static_cast<size_t>(*made)] == s) continue;
        steps[s].inputs.emplace_back(value);
        last_reader[value] = s;
      }
    }
    for (size_t s = 0; s < steps.size(); ++s) {
      for (const int i : steps[s].nodes) {
        if (constant_.contains(i)) continue;
        for (const std::string& output : node(i).output()) {
          if (output.empty()) continue;
          const bool wanted = wanted_.contains(output);
          if (wanted) steps[s].wanted.push_back(output);
          if (wanted || last_reader.contains(output)) steps[s].outputs.push_back(output);
          if (wanted && !last_reader.contains(output)) steps[s].last.push_back(output);
        }
      }
      for (const std::string& input : steps[s].inputs)
        if (last_reader.find(input)->second == s) steps[s].last.push_back(input);
    }
    for (const std::string& value : wanted_)
      if (index_.is_input(value) && !is_constant(value)) steps.front().wanted.push_back(value);
  }

  const onnx::GraphProto& graph_;
  const OnnxGraphIndex& index_;
  const std::set<std::string>& wanted_;
  std::map<std::string_view, int> makers_;
  std::set<int> constant_, needed_;
  std::vector<size_t> level_;
};

}  // namespace

std::vector<OnnxStep> cut_onnx(const onnx::GraphProto& graph, const OnnxGraphIndex& index, const std::set<int>& cuts,
                               const std::set<std::string>& wanted) {
  return Cutter(graph, index, cuts, wanted).cut();
}

}  // namespace nibble
