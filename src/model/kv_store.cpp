#include "model/kv_store.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "core/checked.h"
#include "core/error.h"
#include "core/half.h"
#include "core/text.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

using kernels::kKvBlock;
using kernels::kKvPanel;
using kernels::KvFormat;

constexpr std::string_view kWhat = "the cache's size";

size_t row_bytes(KvFormat format, size_t width) {
  switch (format) {
    case KvFormat::kF32:
      return 4 * width;
    case KvFormat::kF16:
    case KvFormat::kBF16:
      return 2 * width;
    case KvFormat::kQ8:
      return width;
    case KvFormat::kQ4:
      break;
  }
  return width / 2;
}

size_t row_scales(KvFormat format, size_t width) {
  return format == KvFormat::kQ8 || format == KvFormat::kQ4 ? width / kKvBlock : 0;
}

std::unique_ptr<std::byte[]> allocate(size_t bytes, size_t capacity) try {
  return std::make_unique_for_overwrite<std::byte[]>(bytes);
} catch (const std::bad_alloc&) {
  throw Error(ErrorKind::kUsage, cat("no memory for the keys and values of ", capacity, " tokens (",
                                     format_bytes(bytes), " a layer); try fewer tokens or a smaller type of cache"));
}

// The 32 codes of a block as they are stored, and their scale; returns the bytes.
size_t quantize(KvFormat format, const float* values, uint8_t* bytes, uint16_t* scale) {
  const auto& kernels = kernels::active();
  if (format == KvFormat::kQ8) {
    float low, high;
    kernels.min_max(values, kKvBlock, &low, &high);
    *scale = f32_to_f16(low == low ? std::max(-low, high) / 127 : low);
    kernels.encode(values, kKvBlock, f16_to_f32(*scale), 128, 1, 255, bytes);
    for (size_t i = 0; i < kKvBlock; ++i) bytes[i] ^= 0x80;
    return kKvBlock;
  }
  uint8_t codes[kKvBlock];
  kernels.quantize_q4(values, 1, codes, scale);
  for (size_t i = 0; i < kKvBlock / 2; ++i) bytes[i] = static_cast<uint8_t>(codes[i] | codes[i + kKvBlock / 2] << 4);
  return kKvBlock / 2;
}

// Elements of a row, `Stride` apart where keys lie in panels.
template <class Element>
void scatter(const Element* from, size_t count, size_t stride, std::byte* to) {
  if (stride == 1) {
    std::memcpy(to, from, count * sizeof(Element));
    return;
  }
  auto* const elements = reinterpret_cast<Element*>(to);
  for (size_t i = 0; i < count; ++i) elements[i * stride] = from[i];
}

}  // namespace

size_t KvStore::bytes(KvFormat format, size_t heads, size_t width, size_t capacity) {
  const size_t positions = checked_mul(ceil_div(capacity, kKvPanel), kKvPanel, kWhat);
  const size_t row = row_bytes(format, width) + row_scales(format, width) * sizeof(uint16_t);
  return checked_mul(checked_mul(checked_mul(2, heads, kWhat), row, kWhat), positions, kWhat);
}

KvStore::KvStore(KvFormat format, size_t heads, size_t width, size_t capacity)
    : format_(format),
      heads_(heads),
      width_(width),
      capacity_(round_up(capacity, kKvPanel)),
      row_bytes_(row_bytes(format, width)),
      row_scales_(row_scales(format, width)),
      slab_(allocate(bytes(format, heads, width, capacity), capacity)) {}

KvStore::Part KvStore::part(size_t head, bool values) const {
  const size_t data = row_bytes_ * capacity_, scales = row_scales_ * sizeof(uint16_t) * capacity_;
  const size_t begin = (2 * head + (values ? 1 : 0)) * (data + scales);
  return {begin, begin + data};
}

kernels::KvView KvStore::keys(size_t head, size_t position) const {
  const Part at = part(head, false);
  const std::byte* const data = slab_.get();
  return {format_, width_, data + at.data + position * row_bytes_,
          reinterpret_cast<const uint16_t*>(data + at.scales) + position * row_scales_};
}

kernels::KvView KvStore::values(size_t head, size_t position) const {
  const Part at = part(head, true);
  const std::byte* const data = slab_.get();
  return {format_, width_, data + at.data + position * row_bytes_,
          reinterpret_cast<const uint16_t*>(data + at.scales) + position * row_scales_};
}

void KvStore::put(size_t head, size_t position, const float* key, const float* value) {
  put_row(head, position, false, key);
  put_row(head, position, true, value);
}

void KvStore::put_row(size_t head, size_t position, bool is_value, const float* row) {
  const Part at = part(head, is_value);
  const size_t first = is_value ? position : position / kKvPanel * kKvPanel, lane = position - first;
  const size_t stride = is_value ? 1 : kKvPanel;
  std::byte* const data = slab_.get() + at.data + first * row_bytes_;
  auto* const scales = reinterpret_cast<uint16_t*>(slab_.get() + at.scales) + first * row_scales_;
  if (format_ == KvFormat::kF32) return scatter(row, width_, stride, data + lane * sizeof(float));
  for (size_t c = 0; c < width_; c += kKvBlock) {
    const size_t count = std::min(kKvBlock, width_ - c);
    if (row_scales_ == 0) {
      uint16_t halves[kKvBlock];
      const auto& kernels = kernels::active();
      (format_ == KvFormat::kF16 ? kernels.f32_to_f16 : kernels.f32_to_bf16)(row + c, halves, count);
      scatter(halves, count, stride, data + (c * stride + lane) * sizeof(uint16_t));
    } else {
      uint8_t bytes[kKvBlock];
      const size_t size = quantize(format_, row + c, bytes, scales + c / kKvBlock * stride + lane);
      scatter(bytes, size, stride, data + c / kKvBlock * size * stride + lane);
    }
  }
}

void KvStore::take(const KvStore& other, size_t from, size_t count) {
  const size_t positions = round_up(count, kKvPanel);
  for (size_t head = 0; head < heads_; ++head)
    for (const bool is_value : {false, true}) {
      const Part to = part(head, is_value), source = other.part(head, is_value);
      std::memmove(slab_.get() + to.data, other.slab_.get() + source.data + from * row_bytes_, positions * row_bytes_);
      std::memmove(slab_.get() + to.scales, other.slab_.get() + source.scales + from * row_scales_ * sizeof(uint16_t),
                   positions * row_scales_ * sizeof(uint16_t));
    }
}

}  // namespace nibble
