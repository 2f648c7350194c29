#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "core/dtype.h"
#include "quant/quantized_matrix.h"

namespace nibble {

// Index of the first NaN or infinity, or values.size().
size_t find_not_finite(std::span<const float> values);

// Values as F32, F16 or BF16 (to nearest even), little endian. Throws Error(kUsage) when a finite value becomes
// infinite, naming its index and the type that would hold it.
std::vector<std::byte> float_bytes(std::span<const float> values, DType dtype);
// The same of the values that a quantized matrix stands for.
std::vector<std::byte> float_bytes(const QuantizedMatrix& quantized, DType dtype);

}  // namespace nibble
