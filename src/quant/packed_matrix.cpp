#include "quant/packed_matrix.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "quant/decode.h"

namespace nibble {

static_assert(std::endian::native == std::endian::little, "packed codes are read and written as little-endian words");

size_t PackedMatrix::bytes() const {
  return rows * row_stride + scales.size() * sizeof(float) + zeros.size() + mins.size() * sizeof(float) +
         group_of.size() * sizeof(uint32_t);
}

void PackedMatrix::load_row(size_t row, size_t begin, size_t count, float* out) const noexcept {
  const RowGroups groups_of_row = row_groups(*this, row);
  const uint8_t* const packed = codes + row * row_stride;
  if (spec.bits == 8) return decode_columns(groups_of_row, packed + begin, begin, count, out);
  uint8_t scratch[1024];
  for (size_t done = 0; done < count;) {
    const size_t n = std::min(count - done, sizeof scratch);
    unpack_codes(packed, spec.bits, begin + done, n, scratch);
    decode_columns(groups_of_row, scratch, begin + done, n, out + done);
    done += n;
  }
}

PackedMatrixBuilder::PackedMatrixBuilder(QuantSpec spec, size_t rows, size_t cols) {
  spec.validate();
  packed_.spec = spec;
  packed_.rows = rows;
  packed_.cols = cols;
  packed_.row_stride = ceil_div(checked_mul(cols, static_cast<size_t>(spec.bits), "row in bits"), 8);
  storage_ = std::make_shared<std::vector<uint8_t>>(checked_mul(rows, packed_.row_stride, "packed codes"));
  // Per tensor, every row reports its value; finish() compares them and keeps one.
  const size_t groups = checked_mul(rows, packed_.groups(), "number of groups");
  packed_.scales.resize(groups);
  if (spec.mins) packed_.mins.resize(groups);
  if (!spec.symmetric && !spec.mins) packed_.zeros.resize(groups);
}

namespace {

// Copies a slice's per-group array to the rows from `first` on; one value per tensor is repeated for each row.
template <class T>
void place(const std::vector<T>& from, bool per_tensor, size_t rows, size_t groups, size_t first, std::vector<T>& to) {
  if (to.empty()) return;
  if (per_tensor)
    std::fill_n(to.begin() + static_cast<ptrdiff_t>(first), rows, from.at(0));
  else
    std::copy_n(from.begin(), rows * groups, to.begin() + static_cast<ptrdiff_t>(first * groups));
}

template <class T>
void keep_one(std::vector<T>& values) {
  if (values.empty()) return;
  if (std::any_of(values.begin(), values.end(), [&](T value) { return value != values[0]; }))
    throw Error(ErrorKind::kUsage, "row slices of one tensor disagree about its only scale");
  values = std::vector<T>(1, values[0]);
}

}  // namespace

void PackedMatrixBuilder::add(size_t first, const QuantizedMatrix& slice) {
  if (!(slice.spec == packed_.spec) || slice.cols != packed_.cols || first > packed_.rows ||
      slice.rows > packed_.rows - first)
    throw Error(ErrorKind::kUsage, cat("rows ", first, " to ", first + slice.rows, " of ", describe(slice.spec),
                                       " with ", slice.cols, " columns do not fit a matrix [", packed_.rows, ", ",
                                       packed_.cols, "] of ", describe(packed_.spec)));
  if (slice.rows == 0) return;
  for (size_t r = 0; r < slice.rows; ++r)
    pack_codes(slice.codes.data() + r * slice.cols, slice.spec.bits, slice.cols,
               storage_->data() + (first + r) * packed_.row_stride);
  const size_t groups = packed_.groups();
  place(slice.scales, slice.spec.per_tensor, slice.rows, groups, first, packed_.scales);
  place(slice.zeros, slice.spec.per_tensor, slice.rows, groups, first, packed_.zeros);
  place(slice.mins, slice.spec.per_tensor, slice.rows, groups, first, packed_.mins);
  if (first == 0) packed_.group_of = slice.group_of;
}

PackedMatrix PackedMatrixBuilder::finish() {
  if (packed_.spec.per_tensor) {
    keep_one(packed_.scales);
    keep_one(packed_.zeros);
    keep_one(packed_.mins);
  }
  packed_.codes = storage_->data();
  packed_.owner = std::move(storage_);
  return std::move(packed_);
}

QuantizedMatrix unpack_rows(const PackedMatrix& packed, size_t begin, size_t end) {
  assert(begin <= end && end <= packed.rows);
  QuantizedMatrix q;
  q.spec = packed.spec;
  q.rows = end - begin;
  q.cols = packed.cols;
  q.group_of = packed.group_of;
  q.codes.resize(q.rows * q.cols);
  for (size_t r = 0; r < q.rows; ++r)
    unpack_codes(packed.codes + (begin + r) * packed.row_stride, packed.spec.bits, 0, q.cols,
                 q.codes.data() + r * q.cols);
  const auto copy = [&](const auto& from, auto& to) {
    if (from.empty()) return;
    if (packed.spec.per_tensor) {
      to = from;
    } else {
      const auto groups = static_cast<ptrdiff_t>(packed.groups());
      to.assign(from.begin() + static_cast<ptrdiff_t>(begin) * groups,
                from.begin() + static_cast<ptrdiff_t>(end) * groups);
    }
  };
  copy(packed.scales, q.scales);
  copy(packed.zeros, q.zeros);
  copy(packed.mins, q.mins);
  return q;
}

void unpack_codes(const uint8_t* packed, int bits, size_t first, size_t count, uint8_t* out) noexcept {
  kernels::active().unpack_codes(packed, bits, first, count, out);
}

// Eight codes fill `bits` bytes. A 64-bit word holds them one per byte; three steps halve the gaps between neighbours:
// pairs of bytes to 2b-bit fields, pairs of those to 4b, then to 8b bits. About ten operations for eight codes.
void pack_codes(const uint8_t* codes, int bits, size_t count, uint8_t* packed) noexcept {
  const auto width = static_cast<size_t>(bits);
  const auto squeeze = [bits](uint64_t x) {
    x = (x & 0x00ff00ff00ff00ffu) | ((x & 0xff00ff00ff00ff00u) >> (8 - bits));
    x = (x & 0x0000ffff0000ffffu) | ((x & 0xffff0000ffff0000u) >> (16 - 2 * bits));
    return (x & 0x00000000ffffffffu) | ((x >> 32) << (4 * bits));
  };
  const size_t bytes = ceil_div(count * width, 8);
  size_t i = 0, at = 0;
  for (; at + 8 <= bytes; i += 8, at += width) {  // whole words are stored; the next ones overwrite the excess
    uint64_t x;
    std::memcpy(&x, codes + i, 8);
    x = squeeze(x);
    std::memcpy(packed + at, &x, 8);
  }
  for (; i < count; i += 8, at += width) {
    uint64_t x = 0;
    std::memcpy(&x, codes + i, std::min<size_t>(8, count - i));
    x = squeeze(x);
    std::memcpy(packed + at, &x, std::min(width, bytes - at));
  }
}

}  // namespace nibble
