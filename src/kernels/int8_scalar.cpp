#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/half.h"
#include "kernels/int8.h"

namespace nibble::kernels {
namespace {

// Where the bits of one code lie: the part of it in a plane is `width` bits at bit `from` of byte `at` of the block
// and bit `to` of the code.
struct Part {
  size_t at;
  int width, from, to;
};

// Calls body(part) for each plane that holds bits of byte `i` of step `s`.
template <class Body>
void for_each_part(int bits, size_t s, size_t i, const Body& body) {
  if (bits == 8) return body(Part{s * kInt8Vector + i, 8, 0, 0});
  if (bits == kInt8SignOnly) return body(Part{i, 1, static_cast<int>(s), 1});
  size_t plane = 0;
  int to = 0;
  for (const int width : {4, 2, 1}) {
    if ((bits & width) == 0) continue;
    const size_t steps = 8 / static_cast<size_t>(width);  // that one vector holds
    body(Part{plane + s / steps * kInt8Vector + i, width, static_cast<int>(s % steps) * width, to});
    plane += kInt8Vector * static_cast<size_t>(width);
    to += width;
  }
}

uint8_t code_at(const uint8_t* block, int bits, size_t s, size_t i) noexcept {
  unsigned code = 0;
  for_each_part(bits, s, i, [&](Part part) {
    code |= (unsigned{block[part.at]} >> part.from & ((1u << part.width) - 1)) << part.to;
  });
  return static_cast<uint8_t>(code);
}

float value_of(const void* values, DType dtype, size_t i) noexcept {
  if (dtype == DType::kF32) return static_cast<const float*>(values)[i];
  const uint16_t bits = static_cast<const uint16_t*>(values)[i];
  return dtype == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

void quantize(const float* x, size_t cols, size_t group, const Int8Tokens& out, size_t token) noexcept {
  const size_t span = int8_span(group);
  int8_t* const values = out.values + token * out.blocks * kInt8Block;
  float* const sums = out.sums + token * out.groups;
  std::fill_n(sums, out.groups, 0.0f);
  std::fill_n(values, out.blocks * kInt8Block, int8_t{0});
  for (size_t b = 0; b < out.blocks; ++b) {
    const size_t begin = b * kInt8Block, end = std::min(cols, begin + kInt8Block);
    uint32_t largest_bits = 0;  // as integers, magnitudes are in the same order, and NaN is above infinity
    for (size_t c = begin; c < end; ++c)
      largest_bits = std::max(largest_bits, std::bit_cast<uint32_t>(x[c]) & 0x7fffffffu);
    const float largest = std::bit_cast<float>(largest_bits);
    float scale = largest / 127.0f;
    if (largest_bits >= 0x7f800000u) {
      scale = std::numeric_limits<float>::quiet_NaN();
    } else if (largest < 1e-30f) {
      scale = 0;
    } else {
      const float inverse = 127.0f / largest;
      for (size_t c = begin; c < end; ++c) values[c] = static_cast<int8_t>(std::nearbyint(x[c] * inverse));
    }
    out.scales[token * out.blocks + b] = scale;
    for (size_t c = begin; c < begin + kInt8Block; c += span) {
      int sum = 0;
      for (size_t i = 0; i < span; ++i) sum += values[c + i];
      out.negated[token * out.spans + c / span] = static_cast<uint32_t>(-sum) & 0xffffu;
      sums[c / group] += scale * static_cast<float>(sum);
    }
  }
}

void unpack(const uint8_t* packed, int bits, size_t blocks, uint8_t* steps) noexcept {
  for (size_t b = 0; b < blocks; ++b)
    for (size_t s = 0; s < kInt8Steps; ++s)
      for (size_t i = 0; i < kInt8Vector; ++i) *steps++ = code_at(packed + b * int8_block_bytes(bits), bits, s, i);
}

void token_products(const Int8Tile& w, const Int8Tokens& x, size_t token, float* y) noexcept {
  const size_t span = int8_span(w.group), spans_of_group = w.group / span;
  const int8_t* const values = x.values + token * x.blocks * kInt8Block;
  for (size_t r = 0; r < kInt8Rows; ++r) {
    float total = 0;
    for (size_t s = 0, g = 0; s < x.spans; ++g) {
      const size_t end = std::min(x.spans, s + spans_of_group), at = g * kInt8Rows + r;
      const int zero = w.zeros != nullptr ? w.zeros[at] : w.zero;
      float partial = 0;
      for (; s < end; ++s) {
        int dot = 0;
        for (size_t c = s * span; c < (s + 1) * span; ++c) {
          const size_t block = c / kInt8Block, in_block = c % kInt8Block;
          const int code =
              code_at(w.codes + block * int8_block_bytes(w.bits), w.bits, in_block / 4, 4 * r + in_block % 4);
          dot += (code - zero) * values[c];
        }
        partial += static_cast<float>(dot) * x.scales[token * x.blocks + s * span / kInt8Block];
      }
      total += partial * value_of(w.scales, w.scale_dtype, at);
      if (w.mins != nullptr) total += value_of(w.mins, w.scale_dtype, at) * x.sums[token * x.groups + g];
    }
    y[r] = total;
  }
}

void products(const Int8Tile& w, const Int8Tokens& x, size_t first, size_t count, float* y) noexcept {
  for (size_t t = 0; t < count; ++t) token_products(w, x, first + t, y + t * kInt8Rows);
}

bool always() { return true; }

void pack(const uint8_t* codes, size_t stride, int bits, size_t blocks, uint8_t* packed) noexcept {
  uint8_t steps[kInt8Steps * kInt8Vector];
  for (size_t b = 0; b < blocks; ++b) {
    for (size_t r = 0; r < kInt8Rows; ++r)
      for (size_t s = 0; s < kInt8Steps; ++s)
        std::memcpy(steps + s * kInt8Vector + 4 * r, codes + r * stride + b * kInt8Block + 4 * s, 4);
    pack_int8_block(steps, bits, packed + b * int8_block_bytes(bits));
  }
}

}  // namespace

void pack_int8_block(const uint8_t* steps, int bits, uint8_t* packed) noexcept {
  if (bits == 8) {
    std::memcpy(packed, steps, kInt8Steps * kInt8Vector);
    return;
  }
  // Whole vectors at a time, which the compiler can turn into vector instructions.
  uint8_t* plane = packed;
  int shift = 0;  // of the plane's bits in the code
  for (const int width : {4, 2, 1}) {
    if (((bits == kInt8SignOnly ? 1 : bits) & width) == 0) continue;
    const size_t in_byte = 8 / static_cast<size_t>(width);
    const auto mask = static_cast<uint8_t>((1u << width) - 1);
    for (size_t first = 0; first < kInt8Steps; first += in_byte, plane += kInt8Vector) {
      uint8_t bytes[kInt8Vector] = {};
      for (size_t k = 0; k < in_byte; ++k) {
        const uint8_t* const step = steps + (first + k) * kInt8Vector;
        const int to = static_cast<int>(k) * width;
        for (size_t i = 0; i < kInt8Vector; ++i)
          bytes[i] = static_cast<uint8_t>(bytes[i] | ((step[i] >> shift & mask) << to));
      }
      std::memcpy(plane, bytes, sizeof bytes);
    }
    shift += width;
  }
}

extern const Int8Table int8_scalar;
const Int8Table int8_scalar = {"scalar", "scalar", always, quantize, unpack,  pack,   products,
                               0,        0,        0,      nullptr,  nullptr, nullptr};

}  // namespace nibble::kernels
