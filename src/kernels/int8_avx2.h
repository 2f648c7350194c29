#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/int8.h"

// Entries of the AVX2 table that have files of their own. Contracts as in Int8Table.
namespace nibble::kernels::avx2 {

inline constexpr size_t kTiles = 1;
inline constexpr size_t kStrip = 3;
inline constexpr size_t kPlanes = 2;

// Moves bytes: wider vectors gain nothing, so the VNNI table has it too.
void pack_int8(const uint8_t* codes, size_t stride, int bits, size_t blocks, uint8_t* packed) noexcept;

void make_strip(const Int8Tokens& x, size_t first, size_t count, const Int8Strip& out) noexcept;
void make_panel(const Int8Tile* w, Int8Panel& out) noexcept;
void panel_products(const Int8Panel& w, const Int8Strip& x, size_t count, float* y) noexcept;

}  // namespace nibble::kernels::avx2
