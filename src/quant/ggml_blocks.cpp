#include "quant/ggml_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "core/half.h"

namespace nibble {
namespace {

// One function for each type reads one block: codes [block], scales and mins [block / group]. All in ggml's own order
// of operations, since "bit for bit" is the contract.
using ReadBlock = void (*)(const uint8_t* b, uint8_t* codes, float* scales, float* mins) noexcept;

float half_at(const uint8_t* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, 2);
  return f16_to_f32(bits);
}

// Low nibbles of `n` bytes, then their high nibbles.
template <size_t n>
void split_nibbles(const uint8_t* bytes, uint8_t* codes) {
  for (size_t i = 0; i < n; ++i) codes[i] = bytes[i] & 15;
  for (size_t i = 0; i < n; ++i) codes[n + i] = bytes[i] >> 4;
}

void read_q4_0(const uint8_t* b, uint8_t* codes, float* scales, float*) noexcept {
  scales[0] = half_at(b);
  split_nibbles<16>(b + 2, codes);
}

void read_q4_1(const uint8_t* b, uint8_t* codes, float* scales, float* mins) noexcept {
  scales[0] = half_at(b);
  mins[0] = half_at(b + 2);
  split_nibbles<16>(b + 4, codes);
}

// 32 codes of five bits: bit i of `high` is the top bit of code i.
void read_five_bits(const uint8_t* high, const uint8_t* low, uint8_t* codes) {
  split_nibbles<16>(low, codes);
  for (size_t i = 0; i < 32; ++i) codes[i] = static_cast<uint8_t>(codes[i] | ((high[i / 8] >> (i % 8)) & 1) << 4);
}

void read_q5_0(const uint8_t* b, uint8_t* codes, float* scales, float*) noexcept {
  scales[0] = half_at(b);
  read_five_bits(b + 2, b + 6, codes);
}

void read_q5_1(const uint8_t* b, uint8_t* codes, float* scales, float* mins) noexcept {
  scales[0] = half_at(b);
  mins[0] = half_at(b + 2);
  read_five_bits(b + 4, b + 8, codes);
}

void read_q8_0(const uint8_t* b, uint8_t* codes, float* scales, float*) noexcept {
  scales[0] = half_at(b);
  for (size_t i = 0; i < 32; ++i) codes[i] = b[2 + i] ^ 0x80;  // two's complement + 128
}

// scales[16] (scale low, min high nibble), qs[64], d, dmin. Byte i of a half's 32 holds codes i, 32 + i, 64 + i, 96 +
// i.
void read_q2_k(const uint8_t* b, uint8_t* codes, float* scales, float* mins) noexcept {
  const float d = half_at(b + 80), dmin = half_at(b + 82);
  for (size_t g = 0; g < 16; ++g) {
    scales[g] = d * static_cast<float>(b[g] & 15);
    mins[g] = -(dmin * static_cast<float>(b[g] >> 4));
  }
  for (size_t half = 0; half < 2; ++half)
    for (size_t part = 0; part < 4; ++part)
      for (size_t i = 0; i < 32; ++i) codes[128 * half + 32 * part + i] = (b[16 + 32 * half + i] >> (2 * part)) & 3;
}

// hmask[32], qs[64], scales[12], d. The low two bits lie as in Q2_K; bit k of hmask[i] is the third of code 32 k + i.
// Scales: 16 six-bit fields minus 32; low nibbles first in 8 bytes, then the high pairs in 4.
void read_q3_k(const uint8_t* b, uint8_t* codes, float* scales, float*) noexcept {
  const float d = half_at(b + 108);
  const uint8_t* packed = b + 96;
  for (size_t g = 0; g < 16; ++g) {
    const int low = (packed[g % 8] >> (g < 8 ? 0 : 4)) & 15;
    const int high = (packed[8 + g % 4] >> (2 * (g / 4))) & 3;
    scales[g] = d * static_cast<float>((low | high << 4) - 32);
  }
  for (size_t part = 0; part < 8; ++part)
    for (size_t i = 0; i < 32; ++i) {
      const int low = (b[32 + 32 * (part / 4) + i] >> (2 * (part % 4))) & 3;
      const int high = (b[i] >> part) & 1;
      codes[32 * part + i] = static_cast<uint8_t>(low | high << 2);
    }
}

// Eight pairs of six-bit scales and mins in 12 bytes: pairs 0-3 in the low bits of bytes 0-3 and 4-7; pairs 4-7 have
// their low nibbles in bytes 8-11 and their top bits above the first ones.
void read_k_scales(const uint8_t* b, float* scales, float* mins) {
  const float d = half_at(b), dmin = half_at(b + 2);
  const uint8_t* packed = b + 4;
  for (size_t g = 0; g < 8; ++g) {
    int scale = packed[g % 4] & 63, min = packed[4 + g % 4] & 63;
    if (g >= 4) {
      scale = (packed[g + 4] & 15) | (packed[g - 4] >> 6) << 4;
      min = (packed[g + 4] >> 4) | (packed[g] >> 6) << 4;
    }
    scales[g] = d * static_cast<float>(scale);
    mins[g] = -(dmin * static_cast<float>(min));
  }
}

// d, dmin, scales[12], qs[128]: 64 codes from each 32 bytes, low nibbles first.
void read_q4_k(const uint8_t* b, uint8_t* codes, float* scales, float* mins) noexcept {
  read_k_scales(b, scales, mins);
  for (size_t part = 0; part < 4; ++part) split_nibbles<32>(b + 16 + 32 * part, codes + 64 * part);
}

// d, dmin, scales[12], qh[32], qs[128]: bit k of qh[i] is the fifth of code 32 k + i.
void read_q5_k(const uint8_t* b, uint8_t* codes, float* scales, float* mins) noexcept {
  read_k_scales(b, scales, mins);
  for (size_t part = 0; part < 4; ++part) split_nibbles<32>(b + 48 + 32 * part, codes + 64 * part);
  for (size_t part = 0; part < 8; ++part)
    for (size_t i = 0; i < 32; ++i)
      codes[32 * part + i] = static_cast<uint8_t>(codes[32 * part + i] | ((b[16 + i] >> part) & 1) << 4);
}

// ql[128], qh[64], scales[16] (int8), d; in each half of 128, ql holds nibbles of codes 0-63 (low) and 64-127 (high),
// qh the upper pairs of codes i, 32 + i, 64 + i, 96 + i.
void read_q6_k(const uint8_t* b, uint8_t* codes, float* scales, float*) noexcept {
  const float d = half_at(b + 208);
  for (size_t g = 0; g < 16; ++g) scales[g] = d * static_cast<float>(static_cast<int8_t>(b[192 + g]));
  for (size_t half = 0; half < 2; ++half) {
    uint8_t* const c = codes + 128 * half;
    split_nibbles<64>(b + 64 * half, c);
    for (size_t part = 0; part < 4; ++part)
      for (size_t i = 0; i < 32; ++i)
        c[32 * part + i] = static_cast<uint8_t>(c[32 * part + i] | ((b[128 + 32 * half + i] >> (2 * part)) & 3) << 4);
  }
}

// d, scales_h (16 bits), scales_l[4], qs[128]: eight groups of Q4_0's nibble order; six-bit scales minus 32.
void read_iq4_xs(const uint8_t* b, uint8_t* codes, float* scales, float*) noexcept {
  const float d = half_at(b);
  for (size_t g = 0; g < 8; ++g) {
    const int low = (b[4 + g / 2] >> (4 * (g % 2))) & 15, high = (b[2 + g / 4] >> (2 * (g % 4))) & 3;
    scales[g] = d * static_cast<float>((low | high << 4) - 32);
    split_nibbles<16>(b + 8 + 16 * g, codes + 32 * g);
  }
}

struct BlockType {
  DType dtype;
  int bits;
  size_t group;
  bool mins;
  Grid grid;
  ReadBlock read;
};

constexpr BlockType kTypes[] = {
    {DType::kQ4_0, 4, 32, false, Grid::kInt, read_q4_0},     {DType::kQ4_1, 4, 32, true, Grid::kInt, read_q4_1},
    {DType::kQ5_0, 5, 32, false, Grid::kInt, read_q5_0},     {DType::kQ5_1, 5, 32, true, Grid::kInt, read_q5_1},
    {DType::kQ8_0, 8, 32, false, Grid::kInt, read_q8_0},     {DType::kQ2_K, 2, 16, true, Grid::kInt, read_q2_k},
    {DType::kQ3_K, 3, 16, false, Grid::kInt, read_q3_k},     {DType::kQ4_K, 4, 32, true, Grid::kInt, read_q4_k},
    {DType::kQ5_K, 5, 32, true, Grid::kInt, read_q5_k},      {DType::kQ6_K, 6, 16, false, Grid::kInt, read_q6_k},
    {DType::kIQ4_NL, 4, 32, false, Grid::kIQ4NL, read_q4_0}, {DType::kIQ4_XS, 4, 32, false, Grid::kIQ4NL, read_iq4_xs},
};

const BlockType* find_type(DType dtype) {
  for (const BlockType& type : kTypes)
    if (type.dtype == dtype) return &type;
  return nullptr;
}

QuantSpec spec_of(const BlockType& type) {
  QuantSpec spec;
  spec.bits = type.bits;
  spec.group = type.group;
  spec.symmetric = !type.mins;
  spec.mins = type.mins;
  spec.grid = type.grid;
  return spec;
}

}  // namespace

std::optional<QuantSpec> ggml_spec(DType dtype) {
  const BlockType* type = find_type(dtype);
  if (type == nullptr) return std::nullopt;
  return spec_of(*type);
}

QuantSpec ggml_target_spec(DType dtype) {
  QuantSpec spec = ggml_spec(dtype).value();
  spec.scale_dtype = info(dtype).block == spec.group ? DType::kF16 : dtype;
  spec.full_range = dtype == DType::kQ4_0 || dtype == DType::kQ5_0;
  return spec;
}

std::optional<DType> ggml_type_for(const QuantSpec& spec, size_t cols) {
  if (is_block_type(spec.scale_dtype)) return spec.scale_dtype;
  constexpr size_t kBlock = 32;
  if (cols % kBlock != 0 || spec.group % kBlock != 0) return std::nullopt;  // a whole row is 0
  if (spec.grid == Grid::kIQ4NL) return DType::kIQ4_NL;
  if (spec.grid != Grid::kInt || (spec.symmetric ? spec.bits == 1 : !spec.mins)) return std::nullopt;
  if (spec.bits <= 4) return spec.symmetric ? DType::kQ4_0 : DType::kQ4_1;
  if (spec.bits == 5) return spec.symmetric ? DType::kQ5_0 : DType::kQ5_1;
  if (spec.symmetric) return DType::kQ8_0;
  return std::nullopt;
}

QuantizedMatrix import_ggml_rows(DType dtype, size_t rows, size_t cols, std::span<const std::byte> bytes) {
  const DTypeInfo& layout = info(dtype);
  const BlockType* type = find_type(dtype);
  if (type == nullptr) throw Error(ErrorKind::kUnsupported, cat(layout.name, " is not a GGML block type"));
  if (cols % layout.block != 0)
    throw Error(ErrorKind::kCorrupt,
                cat("rows of ", cols, " elements are not whole ", layout.name, " blocks of ", layout.block));
  const size_t row_blocks = cols / layout.block;
  const size_t expected = checked_mul(checked_mul(rows, row_blocks, "blocks"), layout.block_bytes, "bytes of blocks");
  if (bytes.size() != expected)
    throw Error(ErrorKind::kCorrupt,
                cat(layout.name, " [", rows, ", ", cols, "] takes ", expected, " bytes, found ", bytes.size()));

  QuantizedMatrix q;
  q.spec = spec_of(*type);
  q.rows = rows;
  q.cols = cols;
  const size_t block_groups = layout.block / type->group;
  q.codes.resize(rows * cols);
  q.scales.resize(rows * row_blocks * block_groups);
  if (type->mins) q.mins.resize(q.scales.size());
  const auto* block = reinterpret_cast<const uint8_t*>(bytes.data());
  for (size_t i = 0; i < rows * row_blocks; ++i, block += layout.block_bytes)
    type->read(block, q.codes.data() + i * layout.block, q.scales.data() + i * block_groups,
               type->mins ? q.mins.data() + i * block_groups : nullptr);

  for (const std::vector<float>* values : {&q.scales, &q.mins}) {
    const auto bad = std::find_if(values->begin(), values->end(), [](float x) { return !std::isfinite(x); });
    if (bad != values->end())
      throw Error(ErrorKind::kCorrupt,
                  cat("row ", static_cast<size_t>(bad - values->begin()) / (row_blocks * block_groups), ": a ",
                      layout.name, " block's scale is not a finite number; the file is damaged"));
  }
  return q;
}

}  // namespace nibble
