#pragma once
#include <cstddef>
#include <string_view>

#include "core/dtype.h"

// Between the floats of files and float.
namespace nibble {

// out[i] = element i of `bytes` ([count] of F64, F32, F16 or BF16, at any alignment), rounded to nearest.
// Throws Error(kUnsupported) naming `tensor` for any other dtype.
void floats_from_bytes(DType dtype, const std::byte* bytes, size_t count, float* out, std::string_view tensor);
// The reverse, into F32, F16 or BF16 at any alignment; rounds to nearest even.
void floats_to_bytes(const float* values, size_t count, DType dtype, std::byte* out);

}  // namespace nibble
