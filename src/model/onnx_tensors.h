#pragma once
#include <memory>
#include <string>

#include "model/onnx_weights.h"
#include "model/source.h"

namespace nibble {

// Tensors of an ONNX graph as a Source shows them. All keep the model alive.

// Rows [first, first + rows) of a weight, [rows, cols]. Packed ones (MatMulNBits) show their codes. Throws
// Error(kCorrupt) for packed weights that contradict their node, Error(kUnsupported) for those whose columns are
// reordered (g_idx).
std::unique_ptr<StoredTensor> onnx_rows(std::shared_ptr<const OnnxModel> model, const OnnxWeight& weight,
                                        std::string name, size_t first, size_t rows);
// Elements [first, first + count) of a vector. Throws Error(kCorrupt) when it has less.
std::unique_ptr<StoredTensor> onnx_vector(std::shared_ptr<const OnnxModel> model, const onnx::TensorProto& vector,
                                          std::string name, size_t first, size_t count);

}  // namespace nibble
