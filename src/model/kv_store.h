#pragma once
#include <cstddef>
#include <memory>

#include "kernels/kv.h"

namespace nibble {

// Keys and values of `heads` heads at positions [0, capacity), in the layout of the attention kernels. Pages are
// touched only as positions are written.
class KvStore {
 public:
  KvStore() = default;
  // width: columns of a row, a multiple of 16, for quantized formats of 32. Throws Error(kUsage) where
  // there is no memory.
  KvStore(kernels::KvFormat format, size_t heads, size_t width, size_t capacity);

  static size_t bytes(kernels::KvFormat format, size_t heads, size_t width, size_t capacity);  // throws as well

  size_t capacity() const { return capacity_; }  // a multiple of 16
  // Writes one position, rounded to the format. key, value: [width]. Different heads or positions may be written at the
  // same time.
  void put(size_t head, size_t position, const float* key, const float* value);
  kernels::KvView keys(size_t head, size_t position) const;  // position a multiple of 16
  kernels::KvView values(size_t head, size_t position) const;
  // Copies positions [from, from + count) of `other`, of the same format and heads, to 0 and up. `from` is a multiple
  // of 16; `other` may be this store.
  void take(const KvStore& other, size_t from, size_t count);

 private:
  struct Part {  // of a head: byte offset in the slab of data and of scales
    size_t data, scales;
  };
  Part part(size_t head, bool values) const;
  void put_row(size_t head, size_t position, bool is_value, const float* row);

  kernels::KvFormat format_ = kernels::KvFormat::kF32;
  size_t heads_ = 0, width_ = 0, capacity_ = 0;
  size_t row_bytes_ = 0, row_scales_ = 0;  // of one position: bytes of data, number of scales
  std::unique_ptr<std::byte[]> slab_;      // for each head: keys, their scales, values, their scales
};

}  // namespace nibble
