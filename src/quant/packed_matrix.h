#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quant/quantized_matrix.h"

namespace nibble {

// A quantized weight as the runtime reads it: codes stay packed. Values as defined by QuantizedMatrix.
//
// Codes: row r starts at codes + r * row_stride; a dense LSB-first stream of `bits`-bit fields (the layout of
// compressed-tensors' weight_packed, so that such files run from their mapping). Move-only data with shared ownership.
struct PackedMatrix {
  QuantSpec spec;
  size_t rows = 0;
  size_t cols = 0;
  const uint8_t* codes = nullptr;     // [rows, row_stride]; kept alive by `owner`
  size_t row_stride = 0;              // bytes, >= ceil(cols * bits / 8)
  std::shared_ptr<const void> owner;  // of codes: a file mapping or a buffer
  std::vector<float> scales;          // as in QuantizedMatrix
  std::vector<uint8_t> zeros;
  std::vector<float> mins;
  std::vector<uint32_t> group_of;

  size_t groups() const { return spec.groups(cols); }
  size_t bytes() const;  // in memory
  // Dequantizes columns [begin, begin + count) of one row.
  void load_row(size_t row, size_t begin, size_t count, float* out) const noexcept;
};

// Collects row slices into one PackedMatrix with storage of its own.
class PackedMatrixBuilder {
 public:
  PackedMatrixBuilder(QuantSpec spec, size_t rows, size_t cols);
  // Rows [first, first + slice.rows), each exactly once, in any order. Thread-safe for disjoint rows. Every slice has
  // the builder's spec (zeros or mins are as it says); per tensor all hold the same scale. group_of is taken from row
  // 0's slice.
  void add(size_t first, const QuantizedMatrix& slice);
  PackedMatrix finish();

 private:
  PackedMatrix packed_;
  std::shared_ptr<std::vector<uint8_t>> storage_;
};

// Codes of rows [begin, end), unpacked again.
QuantizedMatrix unpack_rows(const PackedMatrix& packed, size_t begin, size_t end);

// out[i] = the i-th `bits`-bit field of the LSB-first stream `packed`, starting at field `first`.
void unpack_codes(const uint8_t* packed, int bits, size_t first, size_t count, uint8_t* out) noexcept;
// The inverse for a whole row: writes ceil(count * bits / 8) bytes, unused high bits zero.
void pack_codes(const uint8_t* codes, int bits, size_t count, uint8_t* packed) noexcept;

}  // namespace nibble
