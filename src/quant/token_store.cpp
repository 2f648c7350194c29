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

int open_file(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) {
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0) throw io_error(cat("cannot open ", path.string()), errno);
    return file;
  }
  std::string name = (path / "activations-XXXXXX").string();
  const int file = ::mkostemp(name.data(), O_CLOEXEC);
  if (file < 0) throw io_error(cat("cannot create a temporary file in ", path.string()), errno);
  ::unlink(name.c_str());
  return file;
}

// Moves `count` bytes by pread or pwrite, whole.
template <class Transfer, class Byte>
void transfer(Transfer step, int file, Byte* data, size_t count, size_t offset) {
  while (count > 0) {
    const ssize_t done = step(file, data, count, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) throw io_error("cannot keep activations in their file", done < 0 ? errno : EIO);
    data += done;
    offset += static_cast<size_t>(done);
    count -= static_cast<size_t>(done);
  }
}

}  // namespace

TokenStore::TokenStore(size_t tokens, size_t cols, DType dtype, const std::filesystem::path& path)
    : cols_(cols), dtype_(dtype) {
  if (dtype != DType::kF32 && dtype != DType::kBF16)
    throw Error(ErrorKind::kUsage, cat("activations are kept as F32 or BF16, not ", info(dtype).name));
  const size_t bytes = tokens * cols * value_bytes(dtype);
  if (path.empty()) {
    memory_.resize(bytes);
    return;
  }
  file_ = open_file(path);
  if (const int failed = bytes == 0 ? 0 : ::posix_fallocate(file_, 0, static_cast<off_t>(bytes)); failed != 0) {
    ::close(file_);
    throw io_error(cat("cannot reserve ", bytes, " bytes for ", path.string()), failed);
  }
}

TokenStore::~TokenStore() {
  if (file_ >= 0) ::close(file_);
}

void TokenStore::write(size_t first, MatrixView<const float> x) {
  assert(x.cols <= cols_);
  const size_t size = value_bytes(dtype_), row = x.cols * size, offset = first * cols_ * size;
  if (file_ >= 0 && as_stored(x)) {
    transfer(::pwrite, file_, reinterpret_cast<const std::byte*>(x.data), x.rows * row, offset);
    return;
  }
  if (file_ >= 0) buffer_.resize(x.rows * row);
  std::byte* out = file_ >= 0 ? buffer_.data() : memory_.data() + offset;
  for (size_t r = 0; r < x.rows; ++r) {
    if (dtype_ == DType::kF32)
      std::memcpy(out + r * row, x.row(r), row);
    else
      kernels::active().f32_to_bf16(x.row(r), reinterpret_cast<uint16_t*>(out + r * row), x.cols);
  }
  if (file_ >= 0) transfer(::pwrite, file_, static_cast<const std::byte*>(out), buffer_.size(), offset);
}

void TokenStore::read(size_t first, MatrixView<float> x) const {
  assert(x.cols <= cols_);
  const size_t size = value_bytes(dtype_), row = x.cols * size, offset = first * cols_ * size;
  if (file_ >= 0 && as_stored(x)) {
    transfer(::pread, file_, reinterpret_cast<std::byte*>(x.data), x.rows * row, offset);
    return;
  }
  if (file_ >= 0) {
    buffer_.resize(x.rows * row);
    transfer(::pread, file_, buffer_.data(), buffer_.size(), offset);
  }
  const std::byte* in = file_ >= 0 ? buffer_.data() : memory_.data() + offset;
  for (size_t r = 0; r < x.rows; ++r) {
    if (dtype_ == DType::kF32)
      std::memcpy(x.row(r), in + r * row, row);
    else
      kernels::active().bf16_to_f32(reinterpret_cast<const uint16_t*>(in + r * row), x.row(r), x.cols);
  }
}

}  // namespace nibble
