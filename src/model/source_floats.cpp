#include "model/source_floats.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/error.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

constexpr size_t kChunk = 512;

}  // namespace

void floats_from_bytes(DType dtype, const std::byte* bytes, size_t count, float* out, std::string_view tensor) {
  if (count == 0) return;
  if (dtype == DType::kF32) {
    std::memcpy(out, bytes, count * sizeof(float));
    return;
  }
  if (!is_float(dtype))
    throw Error(ErrorKind::kUnsupported,
                cat("tensor ", tensor, " is ", info(dtype).name, ", which is not a type of weights"));
  // A file's tensors start where its header ends, at any byte: chunks pass through aligned memory.
  const auto& kernels = kernels::active();
  for (size_t done = 0; done < count; done += kChunk) {
    const size_t n = std::min(kChunk, count - done);
    if (dtype == DType::kF64) {
      double values[kChunk];
      std::memcpy(values, bytes + done * sizeof(double), n * sizeof(double));
      for (size_t i = 0; i < n; ++i) out[done + i] = static_cast<float>(values[i]);
      continue;
    }
    uint16_t halves[kChunk];
    std::memcpy(halves, bytes + done * sizeof(uint16_t), n * sizeof(uint16_t));
    (dtype == DType::kF16 ? kernels.f16_to_f32 : kernels.bf16_to_f32)(halves, out + done, n);
  }
}

void floats_to_bytes(const float* values, size_t count, DType dtype, std::byte* out) {
  if (count == 0) return;
  if (dtype == DType::kF32) {
    std::memcpy(out, values, count * sizeof(float));
    return;
  }
  const auto& kernels = kernels::active();
  for (size_t done = 0; done < count; done += kChunk) {
    const size_t n = std::min(kChunk, count - done);
    uint16_t halves[kChunk];
    (dtype == DType::kF16 ? kernels.f32_to_f16 : kernels.f32_to_bf16)(values + done, halves, n);
    std::memcpy(out + done * sizeof(uint16_t), halves, n * sizeof(uint16_t));
  }
}

}  // namespace nibble
