#include "quant/token_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

size_t value_bytes(DType dtype) { return dtype == DType::kBF16 ? sizeof(uint16_t) : sizeof(float); }

int open_unnamed(const std::filesystem::path& folder) {
  std::string name = (folder / "activations-XXXXXX").string();
  const int file = ::mkostemp(name.data(), O_CLOEXEC);
  if (file < 0) throw io_error(cat("cannot create a temporary file in ", folder.string()), errno);
  ::unlink(name.c_str());
  return file;
}

// Moves `count` bytes by pread or pwrite, whole.
template <class Transfer, class Byte>
void transfer(Transfer step, int file, Byte* data, size_t count, size_t offset) {
  while (count > 0) {
    const ssize_t done = step(file, data, count, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) throw io_error("cannot keep activations in the temporary file", done < 0 ? errno : EIO);
    data += done;
    offset += static_cast<size_t>(done);
    count -= static_cast<size_t>(done);
  }
}

}  // namespace

TokenStore::TokenStore(size_t tokens, size_t cols, DType dtype, const std::filesystem::path& folder)
    : tokens_(tokens), cols_(cols), capacity_(cols), dtype_(dtype), row_bytes_(cols * value_bytes(dtype)) {
  if (dtype != DType::kF32 && dtype != DType::kBF16)
    throw Error(ErrorKind::kUsage, cat("activations are kept as F32 or BF16, not ", info(dtype).name));
  if (folder.empty()) {
    memory_.resize(tokens * row_bytes_);
    return;
  }
  file_ = open_unnamed(folder);
  if (const int failed = ::posix_fallocate(file_, 0, static_cast<off_t>(bytes())); failed != 0 && bytes() != 0) {
    ::close(file_);
    throw io_error(cat("cannot reserve ", bytes(), " bytes in ", folder.string()), failed);
  }
}

TokenStore::~TokenStore() {
  if (file_ >= 0) ::close(file_);
}

void TokenStore::reshape(size_t cols) {
  assert(cols <= capacity_);
  cols_ = cols;
  row_bytes_ = cols * value_bytes(dtype_);
}

void TokenStore::write(size_t first, MatrixView<const float> x) {
  assert(x.cols == cols_ && first + x.rows <= tokens_);
  std::byte* out = memory_.data() + first * row_bytes_;
  if (file_ >= 0) {
    buffer_.resize(x.rows * row_bytes_);
    out = buffer_.data();
  }
  for (size_t r = 0; r < x.rows; ++r) {
    if (dtype_ == DType::kF32)
      std::memcpy(out + r * row_bytes_, x.row(r), row_bytes_);
    else
      kernels::active().f32_to_bf16(x.row(r), reinterpret_cast<uint16_t*>(out + r * row_bytes_), cols_);
  }
  if (file_ >= 0) transfer(::pwrite, file_, static_cast<const std::byte*>(out), buffer_.size(), first * row_bytes_);
}

void TokenStore::read(size_t first, MatrixView<float> x) const {
  assert(x.cols == cols_ && first + x.rows <= tokens_);
  const std::byte* in = memory_.data() + first * row_bytes_;
  if (file_ >= 0) {
    buffer_.resize(x.rows * row_bytes_);
    transfer(::pread, file_, buffer_.data(), buffer_.size(), first * row_bytes_);
    in = buffer_.data();
  }
  for (size_t r = 0; r < x.rows; ++r) {
    if (dtype_ == DType::kF32)
      std::memcpy(x.row(r), in + r * row_bytes_, row_bytes_);
    else
      kernels::active().bf16_to_f32(reinterpret_cast<const uint16_t*>(in + r * row_bytes_), x.row(r), cols_);
  }
}

}  // namespace nibble
