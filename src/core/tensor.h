#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace nibble {

using Shape = std::vector<size_t>;

// Product of the extents (1 for a scalar); throws Error(kCorrupt) on overflow.
size_t element_count(const Shape& shape);

// "[2, 3]".
std::string describe(const Shape& shape);

// Row-major matrix, not owned. `stride` is in elements, >= cols.
template <class T>
struct MatrixView {
  T* data = nullptr;
  size_t rows = 0;
  size_t cols = 0;
  size_t stride = 0;
  T* row(size_t r) const { return data + r * stride; }
  operator MatrixView<const T>() const { return {data, rows, cols, stride}; }
};

// A dense [rows, cols] view of `data`.
template <class T>
MatrixView<T> matrix(T* data, size_t rows, size_t cols) {
  return {data, rows, cols, cols};
}

// Bytes as stored in a file: dtype, shape (outermost first) and a view that `owner` keeps alive. Little endian,
// row-major. `bytes` may be unaligned for its dtype.
struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};

}  // namespace nibble
