#pragma once
#include <map>
#include <memory>
#include <set>
#include <string>

#include "formats/onnx_graph.h"
#include "model/onnx_arrays.h"
#include "model/onnx_weights.h"

namespace nibble {

// Computes a graph for a handful of tokens, node by node and slowly, to see what it does. Weights are read in slices of
// rows, packed ones too; other values go when they have been read.
class OnnxInterpreter {
 public:
  // All outlive it.
  OnnxInterpreter(std::shared_ptr<const OnnxModel> model, const OnnxGraphIndex& index,
                  const std::vector<OnnxWeight>& weights);
  // Gives an input of the graph its value.
  void feed(const std::string& input, OnnxArray value);
  // This value is wanted after run().
  void keep(const std::string& value) { kept_.insert(value); }
  // Throws Error(kUnsupported) naming a node that it does not know, Error(kCorrupt) for one that contradicts itself.
  void run();
  // A constant, or after run() a value to keep; else null.
  const OnnxArray* value(const std::string& name);

 private:
  void compute(const onnx::NodeProto& node, int i);
  bool makes_weight(const onnx::NodeProto& node) const;
  OnnxArray product(const onnx::NodeProto& node, const OnnxWeight& weight);
  OnnxArray lookup(const onnx::NodeProto& node, const OnnxWeight& weight);

  std::shared_ptr<const OnnxModel> model_;
  const OnnxGraphIndex& index_;
  std::map<int, const OnnxWeight*> uses_;  // by node
  std::map<std::string, OnnxArray> values_;
  std::map<std::string, size_t> unread_;  // by how many nodes
  std::set<std::string> kept_;
};

}  // namespace nibble
