#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/dtype.h"

namespace nibble {

// The set of values that codes stand for, before scaling.
enum class Grid : uint8_t {
  kInt,     // grid(c) = c
  kNF4,     // QLoRA's 16 normal-float levels (Dettmers et al. 2023), in [-1, 1]
  kFP4,     // E2M1 of the OCP MX specification: 0 .5 1 1.5 2 3 4 6 and their negatives
  kFP8,     // E4M3 (finite, "fn"): up to 448
  kIQ4NL,   // ggml's 16 non-linear levels; of GGUF's blocks
  kFP4Bnb,  // bitsandbytes' FP4, also ONNX Runtime's: 1/192 where E2M1 scaled to [-1, 1] has 1/12; other codes
};

struct QuantSpec {
  static constexpr size_t kWholeRow = 0;
  static constexpr int kMinBits = 1, kMaxBits = 8;

  int bits = 4;             // 1..8; 4 for tables of 16 levels, 8 for FP8
  size_t group = 128;       // input columns that share one scale; kWholeRow = all of them. Need not divide the row.
  bool per_tensor = false;  // one scale (and zero point) for the whole matrix; group is then kWholeRow
  bool symmetric = true;    // zero point fixed at 2^(bits-1) and not stored; table grids are always symmetric
  bool full_range = false;  // symmetric only: signed scale, absmax / -2^(bits-1) at the largest element
  Grid grid = Grid::kInt;
  // F32, F16 or BF16: what the file will hold; scales are rounded to it before codes are chosen. Or a GGML block type:
  // scales and mins as such blocks hold them, of K-quants F16 numbers times small integers.
  DType scale_dtype = DType::kF32;
  bool mins = false;  // asymmetric only: value = scale * code + min with stored mins (Q4_1, K-quants), no zero points

  // Groups in a row of `cols` columns; the last one may be short. 1 when cols == 0.
  size_t groups(size_t cols) const;
  // Columns of one full group in a row of `cols` columns.
  size_t group_size(size_t cols) const { return group == kWholeRow ? cols : group; }
  // Code of the value 0 in a symmetric integer grid: 2^(bits-1). (1-bit symmetric has no such code: see value_map().)
  int symmetric_zero() const { return 1 << (bits - 1); }
  // Throws Error(kUsage) naming the offending field.
  void validate() const;
  friend bool operator==(const QuantSpec&, const QuantSpec&) = default;
};

// Levels of a table grid ([2^bits], in code order); empty for kInt. NF4 ascends; FP4 and FP8 are in the order of their
// bit patterns (sign in the highest bit); E4M3's two NaN patterns hold NaN and are never chosen.
std::span<const float> grid_levels(Grid grid);
// The grids of 16 levels.
inline constexpr Grid kTables16[] = {Grid::kNF4, Grid::kFP4, Grid::kIQ4NL, Grid::kFP4Bnb};
// "int", "nf4", "fp4", "fp8", "iq4_nl", "fp4_bnb".
std::string_view name(Grid grid);
// Throws Error(kUsage) listing the known names.
Grid parse_grid(std::string_view text);
// "int4 sym g64", "nf4 g64", "fp8 per channel".
std::string describe(const QuantSpec& spec);
// Stored bits of [rows, cols] with its scales and mins (scale_dtype) and zero points (`bits` each), before any padding.
size_t stored_bits(const QuantSpec& spec, size_t rows, size_t cols);

// How the inputs of a linear are quantized while the model runs.
struct ActivationSpec {
  enum class Mode : uint8_t {
    kNone,
    kDynamicPerToken,
    kStatic,  // one scale (and zero point) for all tokens, chosen beforehand
  };
  Mode mode = Mode::kNone;
  int bits = 8;
  bool symmetric = true;
  Grid grid = Grid::kInt;  // kInt or kFP8
  float scale = 0;         // kStatic: of this linear's inputs; positive
  int zero = 0;            // kStatic, asymmetric: code of the value 0, in [0, 2^bits)
  friend bool operator==(const ActivationSpec&, const ActivationSpec&) = default;
};

}  // namespace nibble
