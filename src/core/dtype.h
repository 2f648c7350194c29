#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace nibble {

// Element types found in model files. The GGML block types describe `block` elements in `block_bytes` bytes.
enum class DType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kF8E4M3,
  kF8E5M2,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
};

struct DTypeInfo {
  std::string_view name;  // "F32", "BF16", "Q4_K": safetensors' and GGML's own names
  size_t block;           // elements per block; 1 for plain types
  size_t block_bytes;     // bytes per block
};

const DTypeInfo& info(DType dtype);
inline bool is_block_type(DType dtype) { return info(dtype).block > 1; }
// F64, F32, F16, BF16: what weights are used in without a scale.
bool is_float(DType dtype);
// Bytes of `count` elements, rounded up to whole blocks; throws Error(kCorrupt) on overflow.
size_t byte_size(DType dtype, size_t count);

}  // namespace nibble
