#pragma once
#include <string>
#include <vector>

#include "formats/onnx_graph.h"
#include "formats/onnx_model.h"

namespace nibble {

// A constant matrix of a graph as its nodes use it: W of x W^T, [rows = outputs, cols = inputs], or the table of a
// Gather.
struct OnnxWeight {
  enum class Op : uint8_t { kMatMul, kGemm, kGather, kMatMulNBits, kMatMulBnb4, kGatherBlockQuantized };
  std::string name;  // of its first node
  Op op = Op::kMatMul;
  std::vector<int> nodes;  // all that use these values the same way, in the graph's order
  const onnx::TensorProto* tensor = nullptr;
  bool transposed = false;  // the tensor is [cols, rows]
  size_t rows = 0, cols = 0;
  // The DequantizeLinear nodes that make it of `tensor`, all alike; empty: none do.
  std::vector<const onnx::NodeProto*> dequantizers;
  std::string obstacle;  // why its nodes cannot be replaced, or empty

  bool is_table() const { return op == Op::kGather || op == Op::kGatherBlockQuantized; }
  bool is_packed() const {
    return op == Op::kMatMulNBits || op == Op::kMatMulBnb4 || op == Op::kGatherBlockQuantized || !dequantizers.empty();
  }
};

// The matrices that MatMul and Gemm multiply with and that Gather looks rows up in, and the packed ones of MatMulNBits,
// MatMulBnb4, GatherBlockQuantized and DequantizeLinear, in the order of their first nodes. Constants count through
// Transpose, Identity and Constant nodes. Matrices in subgraphs and in functions are not looked at. Throws
// Error(kCorrupt) for nodes that contradict themselves.
std::vector<OnnxWeight> find_onnx_weights(const OnnxModel& model, const OnnxGraphIndex& index);

// The last of them that is multiplied with (a language model's head), or null.
const OnnxWeight* last_product(const std::vector<OnnxWeight>& weights);

}  // namespace nibble
