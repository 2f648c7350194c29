#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/dtype.h"

// Compute level int8: packed integer weights times activations that were quantized to int8 on the fly.
//
// A weight is cut into tiles of 16 rows and each of these into blocks of 32 columns; rows and columns beyond the end
// hold code 0 and meet activations of 0. Unpacked, a block is 8 steps of 64 bytes: byte 4 r + i of step s is the code
// of row r, column 4 s + i. So one vector holds four neighbours of each row, which is what the instructions for integer
// dot products add up. Packed, a block is the planes of its codes' bits, `bits` x 64 bytes in all: where bits & 4, four
// vectors with the lowest 4 bits of steps (2 j, 2 j + 1), the earlier in the low half of each byte; where bits & 2, two
// vectors with the next 2 bits of steps 4 j .. 4 j + 3; where bits & 1, one vector with the last bit of all steps. The
// same layout serves every instruction set.
namespace nibble::kernels {

inline constexpr size_t kInt8Rows = 16;    // of a tile
inline constexpr size_t kInt8Block = 32;   // columns that share one scale of the activations
inline constexpr size_t kInt8Steps = 8;    // of a block
inline constexpr size_t kInt8Vector = 64;  // bytes of a step
// `bits` of codes that take one bit and unpack to 0 or 2, so that a zero of 1 makes them -1 and +1.
inline constexpr int kInt8SignOnly = 0;

// Bytes of a packed block.
constexpr size_t int8_block_bytes(int bits) { return kInt8Vector * static_cast<size_t>(bits == 0 ? 1 : bits); }
// Columns of which one integer sum is formed: a block, or half of it where a group may end there.
constexpr size_t int8_span(size_t group) { return group % kInt8Block == 0 ? kInt8Block : kInt8Block / 2; }

// Steps [8][64] of codes to the packed form; only the low `bits` bits of a code count (bit 0 for kInt8SignOnly).
void pack_int8_block(const uint8_t* steps, int bits, uint8_t* packed) noexcept;

// 16 rows of a weight: w[r][c] = scale * (code - zero), or scale * code + min.
struct Int8Tile {
  const uint8_t* codes;  // packed or unpacked [blocks], aligned to 64
  int bits;              // 1..8 or kInt8SignOnly
  size_t blocks;         // of a row
  size_t group;          // columns, a multiple of 16; the last group may be short
  DType scale_dtype;     // F32, F16 or BF16: type of scales and mins
  const void* scales;    // [groups, 16], aligned for its type
  const uint8_t* zeros;  // [groups, 16]; null: `zero` everywhere
  int zero;
  const void* mins;  // [groups, 16] or null; where present, zeros is null and zero 0
};

// Quantized activations: x[t][c] ~ scales[t][c / 32] * values[t][c], values in [-127, 127].
struct Int8Tokens {
  size_t blocks, spans, groups;  // of a row: strides of the arrays in tokens
  int8_t* values;                // [tokens, blocks * 32], aligned to 4; beyond the last column 0
  float* scales;                 // [tokens, blocks]
  uint32_t* negated;             // [tokens, spans]: the low 16 bits of minus the sum of a span's values
  float* sums;                   // [tokens, groups]: sum of scale * value over a group
};

// One table per instruction set. Entries never allocate, throw or touch memory outside their arguments.
struct Int8Table {
  std::string_view name;     // "vnni"
  std::string_view kernels;  // the Table (kernels.h) that it goes with
  bool (*usable)();          // may this CPU and OS run the entries?
  size_t tokens;             // most tokens of one call to unpacked_products

  // One token: x [cols] to row `token` of `out`; group as in Int8Tile. scale = largest |x| / 127, value =
  // rint(x * (127 / largest)), to even. A block whose largest is below 1e-30 becomes 0; one that holds NaN or infinity
  // gets the scale NaN. Bit-equal in every table, but for the sums' last bits.
  void (*quantize)(const float* x, size_t cols, size_t group, const Int8Tokens& out, size_t token) noexcept;

  // Packed blocks to steps [blocks][8][64].
  void (*unpack)(const uint8_t* packed, int bits, size_t blocks, uint8_t* steps) noexcept;

  // y[r] = sum_c w[r][c] * x[token][c] for the 16 rows of a packed tile: integer sums of each span, which are exact;
  // float sums of these, in the order of the columns. y is [16].
  void (*products)(const Int8Tile& w, const Int8Tokens& x, size_t token, float* y) noexcept;
  // The same from an unpacked tile (w.bits still says how large codes can be) for tokens [first, first + count),
  // 1 <= count <= tokens. y is [count, 16].
  void (*unpacked_products)(const Int8Tile& w, const Int8Tokens& x, size_t first, size_t count, float* y) noexcept;
};

std::span<const Int8Table* const> available_int8();  // usable on this CPU, best first, "scalar" last
const Int8Table& active_int8();                      // the best that active() allows

}  // namespace nibble::kernels
