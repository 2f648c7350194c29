#pragma once
#include <set>
#include <string>
#include <vector>

#include "formats/onnx_graph.h"
#include "model/onnx_weights.h"

namespace nibble {

// A product with a weight, and what is added to it.
struct OnnxLinear {
  const OnnxWeight* weight = nullptr;
  const onnx::TensorProto* bias = nullptr;
};

// A decoder as its operators show it, whatever they are called: no names are looked at.
struct OnnxStructure {
  struct Layer {
    const onnx::TensorProto* input_norm = nullptr;
    const onnx::TensorProto* query_norm = nullptr;  // of each head's queries, or null; as key_norm
    const onnx::TensorProto* key_norm = nullptr;
    const onnx::TensorProto* mlp_norm = nullptr;
    OnnxLinear query, key, value, output, gate, up, down;
    std::string queries;  // the value that the scores are the product of: [1, heads, tokens, head size]
  };
  const OnnxWeight* embedding = nullptr;
  std::vector<Layer> layers;
  const onnx::TensorProto* norm = nullptr;
  OnnxLinear head;
  float epsilon = 0;
  std::set<size_t> windows;  // of attention: distances that positions are compared with
  std::string angles;        // of the rotation, [..., tokens, head size]: what a Cos reads; or ""
};

// Finds in a graph of single operators (torch.onnx's, optimum's) blocks of norm, attention, norm and gated MLP on a
// residual stream. That it computes what nibble's decoder computes is for the caller to check. `logits` is the value
// that the last product makes. Throws Error(kUnsupported) saying which part it looked for in vain.
OnnxStructure find_onnx_structure(const OnnxModel& model, const OnnxGraphIndex& index,
                                  const std::vector<OnnxWeight>& weights, const std::string& logits);

}  // namespace nibble
