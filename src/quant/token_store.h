#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "core/tensor.h"

namespace nibble {

// Activations of all calibration tokens, F32 or BF16, in memory or in a file. They come in documents: runs of tokens
// that are read as they were written. A document may be written again with another number of columns.
class TokenStore {
 public:
  // Room for `tokens` rows of at most `cols` columns. `path` empty: in memory; a folder: in a file there that has no
  // name and is gone with this; otherwise in the file of that name, which is made where there is none, keeps its
  // contents where there is one, and stays. Throws Error(kIo) when there is no room, Error(kUsage) for other dtypes.
  TokenStore(size_t tokens, size_t cols, DType dtype, const std::filesystem::path& path = {});
  ~TokenStore();
  TokenStore(const TokenStore&) = delete;
  TokenStore& operator=(const TokenStore&) = delete;

  size_t cols() const { return cols_; }
  // The document of tokens [first, first + x.rows). One thread at a time; BF16 rounds to nearest even.
  void write(size_t first, MatrixView<const float> x);
  void read(size_t first, MatrixView<float> x) const;

 private:
  // A document's bytes lie in the file as they do in x.
  bool as_stored(MatrixView<const float> x) const { return dtype_ == DType::kF32 && x.stride == x.cols; }

  size_t cols_;
  DType dtype_;
  int file_ = -1;
  std::vector<std::byte> memory_;
  mutable std::vector<std::byte> buffer_;  // a document on its way from or to the file
};

}  // namespace nibble
