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

// The activations of up to `strip` tokens (see Int8Table), side by side, as the kernels for many tokens read them. What
// the values are is the table's affair: the numbers of Int8Tokens, with or without 128 added.
struct Int8Strip {
  size_t blocks, spans, groups;
  uint8_t* values;    // [blocks, 8, strip, 4]
  float* scales;      // [blocks, strip]
  uint32_t* negated;  // [spans, strip]
  float* sums;        // [groups, strip]
};

// `tiles` (see Int8Table) tiles of a weight, unpacked for many tokens: rows are those of the tiles, one after another.
// How codes become bytes, and what of the zero points is left to subtract, is the table's affair. Arrays are aligned to
// 64.
struct Int8Panel {
  size_t blocks, spans, groups, group;
  size_t planes;  // in use, at most those of the table
  bool has_rest, has_mins;
  uint8_t* codes;   // [blocks, planes, 8, rows, 4]
  int32_t* starts;  // [spans, rows]: what the integer sum over a span starts from
  int32_t* rest;    // [groups, rows] where has_rest: a zero point, to be subtracted from each code of the span
  float* scales;    // [groups, rows]
  float* mins;      // [groups, rows] where has_mins
};

// One table per instruction set. Entries never allocate, throw or touch memory outside their arguments.
//
// Every entry that multiplies computes, for a row and a token: integer sums of each span, which are exact; for each
// group the float sum of these times the token's scales, fused, in the order of the columns; the sum of the groups'
// sums times the group's scale, fused, in their order, each followed by min times the group's sum of activations. So
// all of a table agree to the last bit, whatever the number of tokens.
struct Int8Table {
  std::string_view name;     // "vnni"
  std::string_view kernels;  // the Table (kernels.h) that it goes with
  bool (*usable)();          // may this CPU and OS run the entries?

  // One token: x [cols] to row `token` of `out`; group as in Int8Tile. scale = largest |x| / 127, value =
  // rint(x * (127 / largest)), to even. A block whose largest is below 1e-30 becomes 0; one that holds NaN or infinity
  // gets the scale NaN. Bit-equal in every table, but for the sums' last bits.
  void (*quantize)(const float* x, size_t cols, size_t group, const Int8Tokens& out, size_t token) noexcept;

  // Packed blocks to steps [blocks][8][64].
  void (*unpack)(const uint8_t* packed, int bits, size_t blocks, uint8_t* steps) noexcept;

  // codes [16, stride], of which the first blocks * 32 columns count, to packed blocks.
  void (*pack)(const uint8_t* codes, size_t stride, int bits, size_t blocks, uint8_t* packed) noexcept;

  // Few tokens: y[t][r] = sum_c w[r][c] * x[first + t][c] for the 16 rows of a packed tile and 1 <= count <=
  // kInt8FewTokens tokens. y is [count, 16].
  void (*products)(const Int8Tile& w, const Int8Tokens& x, size_t first, size_t count, float* y) noexcept;

  // Many tokens: what a panel and a strip hold. 0 in a table without these entries: products() serves all.
  size_t tiles, strip;
  size_t planes;  // bytes that a panel has for each weight, at most
  // Tokens [first, first + count), 1 <= count <= strip; of the others nothing is written.
  void (*make_strip)(const Int8Tokens& x, size_t first, size_t count, const Int8Strip& out) noexcept;
  // w: `tiles` tiles of one weight. Fills the arrays and says what they hold; the extents are given.
  void (*make_panel)(const Int8Tile* w, Int8Panel& out) noexcept;
  // The first `count` tokens of a strip. y is [count, rows].
  void (*panel_products)(const Int8Panel& w, const Int8Strip& x, size_t count, float* y) noexcept;
};

inline constexpr size_t kInt8FewTokens = 8;

std::span<const Int8Table* const> available_int8();  // usable on this CPU, best first, "scalar" last
const Int8Table& active_int8();                      // the best that active() allows

}  // namespace nibble::kernels
