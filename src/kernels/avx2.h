#pragma once
#include <cstddef>
#include <cstdint>

// Kernels for AVX2 that the AVX-512 table shares: they move bytes, and wider vectors gain nothing. Contracts as in
// Table.
namespace nibble::kernels::avx2 {

bool usable();  // AVX2, FMA and F16C

void transpose(const float* in, size_t in_stride, size_t rows, size_t cols, float* out, size_t out_stride) noexcept;
void unpack_codes(const uint8_t* packed, int bits, size_t first, size_t n, uint8_t* out) noexcept;

}  // namespace nibble::kernels::avx2
