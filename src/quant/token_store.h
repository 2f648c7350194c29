#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "core/tensor.h"

namespace nibble {

// Activations of all calibration tokens, [tokens, cols], rows of `cols` floats kept as F32 or BF16: in memory, or in a
// temporary file that has no name and is gone with this.
class TokenStore {
 public:
  // `folder`: where the file goes; empty: in memory. Throws Error(kIo) when there is no room, kUsage for other dtypes.
  TokenStore(size_t tokens, size_t cols, DType dtype, const std::filesystem::path& folder = {});
  ~TokenStore();
  TokenStore(const TokenStore&) = delete;
  TokenStore& operator=(const TokenStore&) = delete;

  size_t tokens() const { return tokens_; }
  size_t cols() const { return cols_; }
  size_t bytes() const { return tokens_ * row_bytes_; }
  // Changes the number of columns; what was stored is lost. No more than at construction.
  void reshape(size_t cols);
  // Rows [first, first + x.rows). One thread at a time; BF16 rounds to nearest even.
  void write(size_t first, MatrixView<const float> x);
  void read(size_t first, MatrixView<float> x) const;

 private:
  size_t tokens_, cols_, capacity_;
  DType dtype_;
  size_t row_bytes_ = 0;
  int file_ = -1;
  std::vector<std::byte> memory_;
  mutable std::vector<std::byte> buffer_;  // rows on their way from or to the file
};

}  // namespace nibble
