#pragma once
#include <cstddef>

#include "kernels/int8.h"

// The entries of the VNNI table for many tokens. Contracts as in Int8Table.
namespace nibble::kernels::vnni {

inline constexpr size_t kTiles = 2;
inline constexpr size_t kStrip = 6;
inline constexpr size_t kPlanes = 1;

void make_strip(const Int8Tokens& x, size_t first, size_t count, const Int8Strip& out) noexcept;
void make_panel(const Int8Tile* w, Int8Panel& out) noexcept;
void panel_products(const Int8Panel& w, const Int8Strip& x, size_t count, float* y) noexcept;

}  // namespace nibble::kernels::vnni
