#pragma once
#include <memory>
#include <string>

#include "model/onnx_weights.h"
#include "model/source.h"

namespace nibble {

// onnx_rows() of MatMulBnb4's weights. They show their codes where blocks end where rows end, else values only.
std::unique_ptr<StoredTensor> onnx_bnb4_rows(std::shared_ptr<const OnnxModel> model, const OnnxWeight& weight,
                                             std::string name, size_t first, size_t rows);

}  // namespace nibble
