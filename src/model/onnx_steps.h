#pragma once
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "formats/onnx_graph.h"
#include "formats/onnx_model.h"

namespace nibble {

// Nodes of a graph that run together, and the values that pass between them and other steps.
struct OnnxStep {
  std::vector<int> nodes;            // in an order in which they can run
  std::vector<std::string> inputs;   // inputs of the graph, and what earlier steps made
  std::vector<std::string> outputs;  // what later steps read, and what is wanted
  std::vector<std::string> last;     // of inputs and outputs: those that no later step reads
  std::vector<std::string> wanted;   // of outputs, and in the first step of the graph's inputs
  // Initializers and Constant nodes by the value that they make.
  std::vector<std::pair<std::string, const onnx::TensorProto*>> constants;
};

// Cuts a graph before the nodes `cuts`: such a node runs a step after the last of those that make its inputs, so that
// between two steps it can still be changed. What `wanted` does not depend on is in no step; nodes that depend on
// constants alone are in every step that reads them. Nodes in graphs inside of nodes are not cut. A wanted value that
// is constant is never seen. Throws Error(kUsage) for wanted values that the graph does not have.
std::vector<OnnxStep> cut_onnx(const onnx::GraphProto& graph, const OnnxGraphIndex& index, const std::set<int>& cuts,
                               const std::set<std::string>& wanted);

}  // namespace nibble
