#include "quant/spec.h"

#include <array>
#include <cmath>
#include <limits>

#include "core/checked.h"
#include "core/error.h"

namespace nibble {
namespace {

// The constants of QLoRA's reference implementation: quantiles of N(0, 1), eight positive, zero and seven negative
// ones, scaled to [-1, 1].
constexpr std::array<float, 16> kNF4Levels = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

// ggml's kvalues_iq4nl.
constexpr std::array<float, 16> kIQ4NLLevels = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                1,    13,   25,  38,  53,  69,  89,  113};

constexpr std::array<float, 16> kFP4Levels = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                              -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

// bitsandbytes' get_4bit_type("fp4"): sign, then magnitudes in the order of their codes, as 1/12 of what is named
// there.
constexpr std::array<float, 16> kFP4BnbLevels = {
    0.0f,  0.0625f / 12,  8.0f / 12,  12.0f / 12,  4.0f / 12,  6.0f / 12,  2.0f / 12,  3.0f / 12,
    -0.0f, -0.0625f / 12, -8.0f / 12, -12.0f / 12, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12};

// Sign, four exponent bits with bias 7, three mantissa bits; no infinities; NaN where all seven low bits are set.
std::array<float, 256> make_fp8_levels() {
  std::array<float, 256> levels{};
  for (int code = 0; code < 256; ++code) {
    const int exponent = (code >> 3) & 15, mantissa = code & 7;
    float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    if ((code & 127) == 127) value = std::numeric_limits<float>::quiet_NaN();
    levels[static_cast<size_t>(code)] = (code & 128) != 0 ? -value : value;
  }
  return levels;
}

constexpr Grid kGrids[] = {Grid::kInt, Grid::kNF4, Grid::kFP4, Grid::kFP8, Grid::kIQ4NL, Grid::kFP4Bnb};

[[noreturn]] void refuse(std::string message) { throw Error(ErrorKind::kUsage, std::move(message)); }

}  // namespace

size_t QuantSpec::groups(size_t cols) const {
  if (per_tensor || group == kWholeRow || cols == 0) return 1;
  return ceil_div(cols, group);
}

void QuantSpec::validate() const {
  if (bits < kMinBits || bits > kMaxBits) refuse(cat("bits must be ", kMinBits, " to ", kMaxBits, ", not ", bits));
  const int grid_bits = grid == Grid::kInt ? bits : grid == Grid::kFP8 ? 8 : 4;
  if (bits != grid_bits) refuse(cat("grid ", nibble::name(grid), " has ", grid_bits, " bits, not ", bits));
  if (per_tensor && group != kWholeRow)
    refuse(cat("one scale for the whole tensor leaves no group size, but it is ", group));
  if (grid != Grid::kInt && !symmetric) refuse(cat("grid ", nibble::name(grid), " is symmetric; it has no zero point"));
  if (full_range && !symmetric) refuse("full range applies to symmetric grids only");
  if (full_range && grid != Grid::kInt)
    refuse(cat("full range applies to the integer grid, not to ", nibble::name(grid)));
  if (mins && symmetric) refuse("a stored min makes a grid asymmetric");
  if (scale_dtype != DType::kF32 && scale_dtype != DType::kF16 && scale_dtype != DType::kBF16 &&
      !is_block_type(scale_dtype))
    refuse(cat("scales are F32, F16 or BF16, not ", info(scale_dtype).name));
}

std::span<const float> grid_levels(Grid grid) {
  static const std::array<float, 256> fp8 = make_fp8_levels();
  switch (grid) {
    case Grid::kInt:
      return {};
    case Grid::kNF4:
      return kNF4Levels;
    case Grid::kFP4:
      return kFP4Levels;
    case Grid::kFP8:
      return fp8;
    case Grid::kIQ4NL:
      return kIQ4NLLevels;
    case Grid::kFP4Bnb:
      return kFP4BnbLevels;
  }
  return {};
}

std::string_view name(Grid grid) {
  switch (grid) {
    case Grid::kInt:
      return "int";
    case Grid::kNF4:
      return "nf4";
    case Grid::kFP4:
      return "fp4";
    case Grid::kFP8:
      return "fp8";
    case Grid::kIQ4NL:
      return "iq4_nl";
    case Grid::kFP4Bnb:
      return "fp4_bnb";
  }
  return "?";
}

Grid parse_grid(std::string_view text) {
  std::string known;
  for (Grid grid : kGrids) {
    if (name(grid) == text) return grid;
    known += cat(known.empty() ? "" : ", ", name(grid));
  }
  refuse(cat("unknown grid '", text, "'; known: ", known));
}

std::string describe(const QuantSpec& spec) {
  std::string text(name(spec.grid));
  if (spec.grid == Grid::kInt) {
    text += std::to_string(spec.bits);
    text += spec.mins ? " min" : spec.symmetric ? " sym" : " asym";
    if (spec.full_range) text += " full-range";
  }
  if (spec.per_tensor) return text + " per tensor";
  if (spec.group == QuantSpec::kWholeRow) return text + " per channel";
  return cat(text, " g", spec.group);
}

size_t stored_bits(const QuantSpec& spec, size_t rows, size_t cols) {
  const auto bits = static_cast<size_t>(spec.bits);
  if (is_block_type(spec.scale_dtype)) return 8 * checked_mul(rows, byte_size(spec.scale_dtype, cols), "weight");
  const size_t scale_bits = 8 * info(spec.scale_dtype).block_bytes;
  const size_t beside = spec.symmetric ? 0 : spec.mins ? scale_bits : bits;
  const size_t groups = spec.per_tensor ? 1 : checked_mul(rows, spec.groups(cols), "number of groups");
  const size_t codes = checked_mul(checked_mul(rows, cols, "weight"), bits, "weight in bits");
  return checked_add(codes, checked_mul(groups, scale_bits + beside, "scales in bits"), "weight in bits");
}

}  // namespace nibble
