#include "core/dtype.h"

#include "core/checked.h"

namespace nibble {

const DTypeInfo& info(DType dtype) {
  // In the order of the enumeration. Block sizes: ggml's block structures.
  static constexpr DTypeInfo kInfos[] = {
      {"F64", 1, 8},      {"F32", 1, 4},        {"F16", 1, 2},      {"BF16", 1, 2},     {"F8_E4M3", 1, 1},
      {"F8_E5M2", 1, 1},  {"I64", 1, 8},        {"I32", 1, 4},      {"I16", 1, 2},      {"I8", 1, 1},
      {"U64", 1, 8},      {"U32", 1, 4},        {"U16", 1, 2},      {"U8", 1, 1},       {"BOOL", 1, 1},
      {"Q4_0", 32, 18},   {"Q4_1", 32, 20},     {"Q5_0", 32, 22},   {"Q5_1", 32, 24},   {"Q8_0", 32, 34},
      {"Q2_K", 256, 84},  {"Q3_K", 256, 110},   {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210},
      {"IQ4_NL", 32, 18}, {"IQ4_XS", 256, 136},
  };
  return kInfos[static_cast<size_t>(dtype)];
}

bool is_float(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

size_t byte_size(DType dtype, size_t count) {
  const DTypeInfo& type = info(dtype);
  return checked_mul(ceil_div(count, type.block), type.block_bytes, "tensor size in bytes");
}

}  // namespace nibble
