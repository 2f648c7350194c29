#include <algorithm>
#include <cassert>
#include <cstdint>
#include <span>
#include <vector>

#include "core/threads.h"
#include "quant/int8_matrix.h"

namespace nibble {
namespace {

using kernels::Int8Table;
using kernels::Int8Tile;
using kernels::Int8Tokens;
using kernels::kInt8Block;
using kernels::kInt8Rows;
using kernels::kInt8Steps;
using kernels::kInt8Vector;

constexpr size_t kStepsBytes = kInt8Steps * kInt8Vector;  // of one unpacked block

// At least `count` elements in `storage`, which only grows.
template <class T>
T* grown(std::vector<T>& storage, size_t count) {
  if (storage.size() < count) storage.resize(count);
  return storage.data();
}

// Quantized activations of one product: one for each thread that multiplies.
struct TokenStorage {
  std::vector<int8_t> values;
  std::vector<float> scales, sums;
  std::vector<uint32_t> negated;

  Int8Tokens reserve(size_t tokens, const Int8Matrix& w) {
    const size_t blocks = w.blocks(), spans = blocks * kInt8Block / kernels::int8_span(w.group());
    return {blocks,
            spans,
            w.groups(),
            grown(values, tokens * blocks * kInt8Block),
            grown(scales, tokens * blocks),
            grown(negated, tokens * spans),
            grown(sums, tokens * w.groups())};
  }
};

// Unpacked codes of one tile, aligned: one for each worker.
uint8_t* tile_storage(size_t blocks) {
  static thread_local std::vector<uint8_t> storage;
  uint8_t* const bytes = grown(storage, blocks * kStepsBytes + kInt8Vector);
  return bytes + (kInt8Vector - reinterpret_cast<uintptr_t>(bytes) % kInt8Vector) % kInt8Vector;
}

// Rows [first, first + 16) of the sums of tokens [token, token + count) to y.
void store_sums(const float* sums, size_t count, size_t token, size_t first, const float* bias, MatrixView<float> y) {
  const size_t rows = std::min(kInt8Rows, y.cols - first);
  for (size_t t = 0; t < count; ++t) {
    float* const out = y.row(token + t) + first;
    const float* const in = sums + t * kInt8Rows;
    for (size_t r = 0; r < rows; ++r) out[r] = bias != nullptr ? in[r] + bias[first + r] : in[r];
  }
}

// Tile `index` of `product` with every token.
void multiply_tile(const Int8Product& product, size_t index, const Int8Tokens& tokens) {
  const Int8Table& kernel = kernels::active_int8();
  const size_t first = index * kInt8Rows, count = product.y.rows;
  Int8Tile tile = product.w->tile(index);
  float sums[8 * kInt8Rows];
  assert(kernel.tokens <= 8);
  if (count == 1) {
    kernel.products(tile, tokens, 0, sums);
    store_sums(sums, 1, 0, first, product.bias, product.y);
    return;
  }
  if (tile.bits != 8) {
    uint8_t* const steps = tile_storage(tile.blocks);
    kernel.unpack(tile.codes, tile.bits, tile.blocks, steps);
    tile.codes = steps;
  }
  for (size_t t = 0; t < count; t += kernel.tokens) {
    const size_t some = std::min(kernel.tokens, count - t);
    kernel.unpacked_products(tile, tokens, t, some, sums);
    store_sums(sums, some, t, first, product.bias, product.y);
  }
}

}  // namespace

void multiply(std::span<const Int8Product> products, MatrixView<const float> x) {
  const Int8Matrix& w = *products[0].w;
  size_t tiles = 0;
  for (const Int8Product& product : products) {
    assert(share_activations(w, *product.w) && x.cols == product.w->cols());
    assert(product.y.rows == x.rows && product.y.cols == product.w->rows());
    tiles += product.w->tiles();
  }
  if (x.rows == 0) return;
  static thread_local TokenStorage storage;
  const Int8Tokens tokens = storage.reserve(x.rows, w);
  // A single token is not worth a parallel region: its range runs in this thread.
  parallel_for(x.rows, 16, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) kernels::active_int8().quantize(x.row(t), x.cols, w.group(), tokens, t);
  });
  // About 32,768 weights: see weight_matrix.cpp.
  const size_t grain = std::max<size_t>(1, 32768 / (kInt8Rows * w.blocks() * kInt8Block));
  parallel_for(tiles, grain, [&](size_t begin, size_t end) {
    size_t before = 0;  // tiles of earlier products
    for (const Int8Product& product : products) {
      const size_t after = before + product.w->tiles();
      for (; begin < std::min(end, after); ++begin) multiply_tile(product, begin - before, tokens);
      before = after;
    }
  });
}

void multiply(const Int8Matrix& w, MatrixView<const float> x, const float* bias, MatrixView<float> y) {
  const Int8Product product{&w, bias, y};
  multiply(std::span(&product, 1), x);
}

}  // namespace nibble
