#include "export/float_bytes.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/error.h"
#include "kernels/kernels.h"

namespace nibble {

size_t find_not_finite(std::span<const float> values) {
  float lo = 0, hi = 0;
  kernels::active().min_max(values.data(), values.size(), &lo, &hi);
  if (values.empty() || (std::isfinite(lo) && std::isfinite(hi))) return values.size();
  size_t i = 0;
  while (i < values.size() && std::isfinite(values[i])) ++i;
  return i;
}

std::vector<std::byte> float_bytes(std::span<const float> values, DType dtype) {
  if (dtype == DType::kF32) {
    const auto bytes = std::as_bytes(values);
    return {bytes.begin(), bytes.end()};
  }
  if (dtype != DType::kF16 && dtype != DType::kBF16)
    throw Error(ErrorKind::kUsage, cat("floats cannot be stored as ", info(dtype).name));
  std::vector<std::byte> bytes(values.size() * 2);
  auto* halves = reinterpret_cast<uint16_t*>(bytes.data());  // operator new aligns for any type
  const bool f16 = dtype == DType::kF16;
  const kernels::Table& table = kernels::active();
  (f16 ? table.f32_to_f16 : table.f32_to_bf16)(values.data(), halves, values.size());
  // An exponent of all ones is an infinity (or a NaN, which the values were checked not to hold).
  const uint16_t special = f16 ? 0x7c00 : 0x7f80;
  bool overflow = false;
  for (size_t i = 0; i < values.size(); ++i) overflow |= (halves[i] & special) == special;
  if (!overflow) return bytes;
  size_t at = 0;
  while ((halves[at] & special) != special) ++at;
  throw Error(ErrorKind::kUsage, cat("value ", values[at], " at element ", at, " does not fit ", info(dtype).name,
                                     "; try --dtype ", f16 ? "bf16 or fp32" : "fp32"));
}

std::vector<std::byte> float_bytes(const QuantizedMatrix& quantized, DType dtype) {
  std::vector<float> values(quantized.rows * quantized.cols);
  dequantize(quantized, matrix(values.data(), quantized.rows, quantized.cols));
  return float_bytes(values, dtype);
}

}  // namespace nibble
