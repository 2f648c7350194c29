#pragma once
#include <memory>
#include <string>

#include "model/onnx_weights.h"
#include "model/source.h"

namespace nibble {

// onnx_rows() of weights that DequantizeLinear makes. Throws Error(kUnsupported) for scales of other sets of elements
// than blocks of a row, rows or the matrix.
std::unique_ptr<StoredTensor> onnx_dequantized_rows(std::shared_ptr<const OnnxModel> model, const OnnxWeight& weight,
                                                    std::string name, size_t first, size_t rows);

}  // namespace nibble
