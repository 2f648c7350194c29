// The inverse of ggml_blocks.cpp: codes, scales and mins into GGML's blocks.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/half.h"
#include "quant/ggml_blocks.h"
#include "quant/ggml_two_level.h"

namespace nibble {
namespace {

// One function for each type writes one zeroed block from codes [block], scales and mins [block / group]. False when a
// scale or min is not one that the type has.
using WriteBlock = bool (*)(const uint8_t* codes, const float* scales, const float* mins, uint8_t* b) noexcept;

// False when the value is no F16.
bool put_half(float value, uint8_t* bytes) {
  const uint16_t bits = f32_to_f16(value);
  std::memcpy(bytes, &bits, 2);
  return f16_to_f32(bits) == value;
}

template <size_t n>
void join_nibbles(const uint8_t* codes, uint8_t* bytes) {
  for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<uint8_t>((codes[i] & 15) | codes[n + i] << 4);
}

bool write_q4_0(const uint8_t* codes, const float* scales, const float*, uint8_t* b) noexcept {
  join_nibbles<16>(codes, b + 2);
  return put_half(scales[0], b);
}

bool write_q4_1(const uint8_t* codes, const float* scales, const float* mins, uint8_t* b) noexcept {
  join_nibbles<16>(codes, b + 4);
  return put_half(scales[0], b) && put_half(mins[0], b + 2);
}

void write_five_bits(const uint8_t* codes, uint8_t* high, uint8_t* low) {
  join_nibbles<16>(codes, low);
  for (size_t i = 0; i < 32; ++i) high[i / 8] = static_cast<uint8_t>(high[i / 8] | (codes[i] >> 4) << (i % 8));
}

bool write_q5_0(const uint8_t* codes, const float* scales, const float*, uint8_t* b) noexcept {
  write_five_bits(codes, b + 2, b + 6);
  return put_half(scales[0], b);
}

bool write_q5_1(const uint8_t* codes, const float* scales, const float* mins, uint8_t* b) noexcept {
  write_five_bits(codes, b + 4, b + 8);
  return put_half(scales[0], b) && put_half(mins[0], b + 2);
}

bool write_q8_0(const uint8_t* codes, const float* scales, const float*, uint8_t* b) noexcept {
  for (size_t i = 0; i < 32; ++i) b[2 + i] = codes[i] ^ 0x80;
  return put_half(scales[0], b);
}

// Bit pairs of 256 codes in Q2_K's order.
void write_pairs(const uint8_t* codes, uint8_t* bytes) {
  for (size_t half = 0; half < 2; ++half)
    for (size_t part = 0; part < 4; ++part)
      for (size_t i = 0; i < 32; ++i)
        bytes[32 * half + i] =
            static_cast<uint8_t>(bytes[32 * half + i] | (codes[128 * half + 32 * part + i] & 3) << (2 * part));
}

// Mins are stored as what is subtracted.
std::optional<TwoLevel> split_mins(const float* mins, size_t count, int high) {
  float subtracted[16];
  std::transform(mins, mins + count, subtracted, [](float min) { return -min; });
  return split_two_levels({subtracted, count}, 0, high);
}

bool write_q2_k(const uint8_t* codes, const float* scales, const float* mins, uint8_t* b) noexcept {
  const auto scale = split_two_levels({scales, 16}, 0, 15), min = split_mins(mins, 16, 15);
  if (!scale || !min) return false;
  for (size_t g = 0; g < 16; ++g) b[g] = static_cast<uint8_t>(scale->integers[g] | min->integers[g] << 4);
  write_pairs(codes, b + 16);
  return put_half(scale->base, b + 80) && put_half(min->base, b + 82);
}

bool write_q3_k(const uint8_t* codes, const float* scales, const float*, uint8_t* b) noexcept {
  const auto scale = split_two_levels({scales, 16}, -32, 31);
  if (!scale) return false;
  for (size_t g = 0; g < 16; ++g) {
    const int field = scale->integers[g] + 32;
    uint8_t* const packed = b + 96;
    packed[g % 8] = static_cast<uint8_t>(packed[g % 8] | (field & 15) << (g < 8 ? 0 : 4));
    packed[8 + g % 4] = static_cast<uint8_t>(packed[8 + g % 4] | (field >> 4) << (2 * (g / 4)));
  }
  write_pairs(codes, b + 32);
  for (size_t part = 0; part < 8; ++part)
    for (size_t i = 0; i < 32; ++i) b[i] = static_cast<uint8_t>(b[i] | (codes[32 * part + i] >> 2) << part);
  return put_half(scale->base, b + 108);
}

bool write_k_scales(const float* scales, const float* mins, uint8_t* b) {
  const auto scale = split_two_levels({scales, 8}, 0, 63), min = split_mins(mins, 8, 63);
  if (!scale || !min) return false;
  uint8_t* const packed = b + 4;
  for (size_t g = 0; g < 4; ++g) {
    const int s = scale->integers[g], m = min->integers[g], later_s = scale->integers[g + 4],
              later_m = min->integers[g + 4];
    packed[g] = static_cast<uint8_t>(s | (later_s >> 4) << 6);
    packed[4 + g] = static_cast<uint8_t>(m | (later_m >> 4) << 6);
    packed[8 + g] = static_cast<uint8_t>((later_s & 15) | (later_m & 15) << 4);
  }
  return put_half(scale->base, b) && put_half(min->base, b + 2);
}

bool write_q4_k(const uint8_t* codes, const float* scales, const float* mins, uint8_t* b) noexcept {
  for (size_t part = 0; part < 4; ++part) join_nibbles<32>(codes + 64 * part, b + 16 + 32 * part);
  return write_k_scales(scales, mins, b);
}

bool write_q5_k(const uint8_t* codes, const float* scales, const float* mins, uint8_t* b) noexcept {
  for (size_t part = 0; part < 4; ++part) join_nibbles<32>(codes + 64 * part, b + 48 + 32 * part);
  for (size_t part = 0; part < 8; ++part)
    for (size_t i = 0; i < 32; ++i) b[16 + i] = static_cast<uint8_t>(b[16 + i] | (codes[32 * part + i] >> 4) << part);
  return write_k_scales(scales, mins, b);
}

bool write_q6_k(const uint8_t* codes, const float* scales, const float*, uint8_t* b) noexcept {
  const auto scale = split_two_levels({scales, 16}, -128, 127);
  if (!scale) return false;
  for (size_t g = 0; g < 16; ++g) b[192 + g] = static_cast<uint8_t>(scale->integers[g]);
  for (size_t half = 0; half < 2; ++half) {
    const uint8_t* const c = codes + 128 * half;
    join_nibbles<64>(c, b + 64 * half);
    for (size_t part = 0; part < 4; ++part)
      for (size_t i = 0; i < 32; ++i) {
        uint8_t& high = b[128 + 32 * half + i];
        high = static_cast<uint8_t>(high | (c[32 * part + i] >> 4) << (2 * part));
      }
  }
  return put_half(scale->base, b + 208);
}

bool write_iq4_xs(const uint8_t* codes, const float* scales, const float*, uint8_t* b) noexcept {
  const auto scale = split_two_levels({scales, 8}, -32, 31);
  if (!scale) return false;
  for (size_t g = 0; g < 8; ++g) {
    const int field = scale->integers[g] + 32;
    b[4 + g / 2] = static_cast<uint8_t>(b[4 + g / 2] | (field & 15) << (4 * (g % 2)));
    b[2 + g / 4] = static_cast<uint8_t>(b[2 + g / 4] | (field >> 4) << (2 * (g % 4)));
    join_nibbles<16>(codes + 32 * g, b + 8 + 16 * g);
  }
  return put_half(scale->base, b);
}

WriteBlock writer_of(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kIQ4_NL:
      return write_q4_0;
    case DType::kQ4_1:
      return write_q4_1;
    case DType::kQ5_0:
      return write_q5_0;
    case DType::kQ5_1:
      return write_q5_1;
    case DType::kQ8_0:
      return write_q8_0;
    case DType::kQ2_K:
      return write_q2_k;
    case DType::kQ3_K:
      return write_q3_k;
    case DType::kQ4_K:
      return write_q4_k;
    case DType::kQ5_K:
      return write_q5_k;
    case DType::kQ6_K:
      return write_q6_k;
    case DType::kIQ4_XS:
      return write_iq4_xs;
    default:
      throw Error(ErrorKind::kUnsupported, cat(info(dtype).name, " is not a GGML block type"));
  }
}

// Do codes of `spec` mean the same in the type's own spec once `shift` is added? Throws when they do not.
int code_shift(const QuantSpec& spec, DType dtype) {
  const QuantSpec target = ggml_spec(dtype).value();
  const bool same_kind = spec.grid == target.grid && spec.symmetric == target.symmetric && spec.mins == target.mins &&
                         spec.bits <= target.bits && !(spec.symmetric && spec.bits == 1);
  const bool same_groups =
      spec.group == target.group || (info(dtype).block == target.group && spec.group % target.group == 0);
  if (!same_kind || !same_groups)
    throw Error(ErrorKind::kUsage, cat(info(dtype).name, " blocks do not hold ", describe(spec)));
  return spec.symmetric && spec.grid == Grid::kInt ? target.symmetric_zero() - spec.symmetric_zero() : 0;
}

}  // namespace

std::vector<std::byte> export_ggml_rows(DType dtype, const QuantizedMatrix& q) {
  const DTypeInfo& layout = info(dtype);
  const WriteBlock write = writer_of(dtype);
  const int shift = code_shift(q.spec, dtype);
  const size_t group = ggml_spec(dtype)->group, block_groups = layout.block / group;
  if (q.cols % layout.block != 0)
    throw Error(ErrorKind::kUsage,
                cat("rows of ", q.cols, " columns are not whole ", layout.name, " blocks of ", layout.block));
  if (!q.group_of.empty())
    throw Error(ErrorKind::kUsage, cat("columns with groups of their own do not fit ", layout.name, " blocks"));

  const size_t row_blocks = q.cols / layout.block, source_group = q.spec.group_size(q.cols), groups = q.groups();
  std::vector<std::byte> bytes(q.rows * row_blocks * layout.block_bytes);
  auto* block = reinterpret_cast<uint8_t*>(bytes.data());
  uint8_t codes[256];
  float scales[16], mins[16] = {};
  for (size_t r = 0; r < q.rows; ++r)
    for (size_t i = 0; i < row_blocks; ++i, block += layout.block_bytes) {
      const uint8_t* const from = q.codes.data() + r * q.cols + i * layout.block;
      for (size_t c = 0; c < layout.block; ++c) codes[c] = static_cast<uint8_t>(from[c] + shift);
      for (size_t g = 0; g < block_groups; ++g) {
        const size_t at = q.spec.per_tensor ? 0 : r * groups + (i * layout.block + g * group) / source_group;
        scales[g] = q.scales[at];
        if (!q.mins.empty()) mins[g] = q.mins[at];
      }
      if (!write(codes, scales, mins, block))
        throw Error(ErrorKind::kUsage,
                    cat("row ", r, ": a scale of the group at column ", i * layout.block, " has no exact form in a ",
                        layout.name, " block; quantize the original model to that type instead"));
    }
  return bytes;
}

}  // namespace nibble
