#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/int8_outliers.h"

namespace nibble {

// The outliers of the tokens of one product (kernels/int8_outliers.h), and the columns of the weight that they meet.
// Memory only grows.
class Outliers {
 public:
  // Room for tokens of `cols` columns; earlier contents are lost.
  void reserve(size_t tokens, size_t cols);
  // Takes the outliers of token `t` out of x [cols]; the rest goes to `rest` [cols]. Tokens may be split in parallel.
  void split(size_t t, const float* x, float* rest);
  // Once all tokens are split: collects the columns that any of them needs.
  void collect();

  size_t most_columns() const;  // that tokens of that number could need
  // The collected columns of the 16 rows of a tile: out[k * stride + r] for k < most_columns() or fewer.
  void load(const kernels::Int8Tile& w, float* out, size_t stride) const noexcept;
  // Adds token t's outliers times the loaded columns of `rows` rows to y [rows].
  void add(size_t t, const float* loaded, size_t rows, float* y) const noexcept;

 private:
  size_t cols_ = 0, blocks_ = 0, tokens_ = 0;
  std::vector<uint32_t> at_;       // [tokens, blocks]: columns; after collect() indices into columns_
  std::vector<float> values_;      // [tokens, blocks]
  std::vector<uint32_t> counts_;   // [tokens]
  std::vector<uint32_t> columns_;  // in rising order
  std::vector<uint32_t> index_;    // [cols]: of a column in columns_
};

}  // namespace nibble
