#include "quant/input_collector.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/error.h"
#include "core/threads.h"
#include "kernels/bf16.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

constexpr size_t kLine = 64;   // bytes
constexpr size_t kStrip = 16;  // columns transposed together
constexpr size_t kTail = 32;   // rows of the transposed chunk do not all fall into the same cache sets
constexpr size_t kStride = InputCollector::kChunk + kTail;

template <class T>
T* aligned(std::vector<T>& storage, size_t size) {
  constexpr size_t kOfLine = kLine / sizeof(T);
  if (storage.size() < size + kOfLine) storage.resize(size + kOfLine);
  const auto address = reinterpret_cast<uintptr_t>(storage.data());
  return storage.data() + (kOfLine - address / sizeof(T) % kOfLine) % kOfLine;
}

// One chunk of inputs x, and the product X^T X of it. Float: tiles of Table::gemm_tile. Row c of `columns` holds the
// chunk's values of column c.
struct FloatTiles {
  using Value = float;
  MatrixView<const float> x;
  const kernels::Table& table = kernels::active();

  size_t tokens() const { return table.tile_tokens; }
  size_t rows() const { return table.tile_rows; }
  // Columns [first, first + count), token by token: as they came.
  void pack(size_t first, size_t count, float* panel) const {
    for (size_t t = 0; t < x.rows; ++t) std::copy_n(x.row(t) + first, count, panel + t * rows());
  }
  void multiply(const float* rows_of_a, const float* panel, float* acc, size_t count) const {
    table.gemm_tile(rows_of_a, kStride, panel, x.rows, acc, rows(), count, false);
  }
};

// The same in bf16: pairs of tokens.
struct Bf16Tiles {
  using Value = uint16_t;
  const kernels::Bf16Table& units;
  const uint16_t* columns;  // of X
  size_t depth;             // tokens

  size_t tokens() const { return units.tile_tokens; }
  size_t rows() const { return units.tile_rows; }
  void pack(size_t first, size_t count, uint16_t* panel) const {
    units.pack_pairs(columns + first * kStride, kStride, count, depth, panel, rows());
  }
  void multiply(const uint16_t* rows_of_a, const uint16_t* panel, float* acc, size_t count) const {
    units.gemm_tile(rows_of_a, kStride, panel, (depth + 1) / 2, acc, rows(), count, false);
  }
};

// To bf16, whole pairs of tokens.
void round_column(const float* column, size_t depth, uint16_t* out) {
  kernels::active().f32_to_bf16(column, out, depth);
  if (depth % 2 != 0) out[depth] = 0;
}

// Sums are on their way, from memory or a cache that all cores share, while products are formed.
template <class T>
void prefetch(const T* values, size_t count) {
  constexpr size_t kOfLine = kLine / sizeof(T);
  for (size_t i = 0; i < count; i += kOfLine) __builtin_prefetch(values + i, 1);
  if (count > 0) __builtin_prefetch(values + count - 1, 1);
}

// *at(r, c) += element (r, c) of A^T X, for rows r >= c where `triangle`, else for all; at(r, c + 1) is at(r, c) + 1.
// a: [cols, kStride].
template <class Tiles, class At>
void each_product(const Tiles& tiles, const typename Tiles::Value* a, size_t cols, bool triangle, const At& at) {
  using Value = typename Tiles::Value;
  const size_t width = tiles.rows();
  parallel_for((cols + width - 1) / width, 1, [&](size_t first, size_t last) {
    static thread_local std::vector<Value> panel_storage;
    static thread_local std::vector<float> acc_storage;
    Value* const panel = aligned(panel_storage, width * (InputCollector::kChunk + 2));
    float* const acc = aligned(acc_storage, tiles.tokens() * width);
    for (size_t p = first; p < last; ++p) {
      const size_t begin = p * width, count = std::min(width, cols - begin);
      const auto wanted = [&](size_t row) { return triangle ? std::min(count, row + 1 - begin) : count; };
      if (count < width) std::fill_n(panel, width * (InputCollector::kChunk + 2), Value{});
      tiles.pack(begin, count, panel);
      for (size_t r = triangle ? begin : 0; r < cols; r += tiles.tokens()) {
        const size_t rows = std::min(tiles.tokens(), cols - r);
        for (size_t i = 0; i < rows; ++i) prefetch(at(r + i, begin), wanted(r + i));
        tiles.multiply(a + r * kStride, panel, acc, rows);
        for (size_t i = 0; i < rows; ++i) {
          auto* const out = at(r + i, begin);
          const float* const products = acc + i * width;
          for (size_t c = 0, n = wanted(r + i); c < n; ++c) out[c] += products[c];
        }
      }
    }
  });
}

// gram += X^T X and, unless `deltas` is null, cross += deltas^T X.
template <class Tiles>
void add_products(const Tiles& tiles, const typename Tiles::Value* columns, const typename Tiles::Value* deltas,
                  StatsSums& sums) {
  const size_t cols = sums.square.size();
  each_product(tiles, columns, cols, true,
               [&](size_t row, size_t col) { return sums.gram.data() + row * (row + 1) / 2 + col; });
  if (deltas)
    each_product(tiles, deltas, cols, false,
                 [&](size_t row, size_t col) { return sums.cross.data() + row * cols + col; });
}

// What a strip of columns adds to the sums, in the order of the tokens. In double: squares of what a model computes may
// leave the range of float.
struct StripSums {
  double square[kStrip] = {}, abs[kStrip] = {};
  float max_abs[kStrip] = {};

  void add(const float* x, size_t cols) {
    for (size_t c = 0; c < cols; ++c) {
      const float a = std::abs(x[c]);
      square[c] += static_cast<double>(a) * static_cast<double>(a);
      abs[c] += static_cast<double>(a);
      max_abs[c] = std::max(max_abs[c], a);
    }
  }
};

}  // namespace

InputCollector::InputCollector(size_t cols, bool gram, bool bf16, size_t first_leaf)
    : cols_(cols), leaf_(first_leaf), bf16_(bf16) {
  sums_.square.resize(cols);
  sums_.abs.resize(cols);
  sums_.max_abs.resize(cols);
  if (gram) sums_.gram.resize(cols * (cols + 1) / 2);
}

void InputCollector::add(MatrixView<const float> x) {
  for (size_t t = 0; t < x.rows; t += kChunk)
    add_chunk({x.row(t), std::min(kChunk, x.rows - t), x.cols, x.stride}, nullptr);
}

void InputCollector::add(MatrixView<const float> x, MatrixView<const float> wanted) {
  for (size_t t = 0; t < x.rows; t += kChunk) {
    const size_t count = std::min(kChunk, x.rows - t);
    const MatrixView<const float> part{wanted.row(t), count, wanted.cols, wanted.stride};
    add_chunk({x.row(t), count, x.cols, x.stride}, &part);
  }
}

void InputCollector::add_chunk(MatrixView<const float> x, const MatrixView<const float>* wanted) {
  if (chunks_ == kLeafChunks) close_leaf();
  const size_t cols = cols_, depth = x.rows;
  const bool gram = !sums_.gram.empty();
  const kernels::Bf16Table* units = bf16_ ? kernels::fast_bf16(kernels::active()) : nullptr;
  if (wanted && sums_.cross.empty()) sums_.cross.resize(cols * cols);
  // Of the inputs, then of their differences.
  static thread_local std::vector<float> float_storage;
  static thread_local std::vector<uint16_t> half_storage;
  const size_t space = cols * kStride * (wanted ? 2 : 1);
  float* const floats = gram && !units ? aligned(float_storage, space) : nullptr;
  uint16_t* const halves = gram && units ? aligned(half_storage, space) : nullptr;
  parallel_for(cols, kStrip, [&](size_t begin, size_t end) {
    StripSums strip;
    for (size_t t = 0; t < depth; ++t) strip.add(x.row(t) + begin, end - begin);
    for (size_t c = begin; c < end; ++c) {
      if (!std::isfinite(strip.square[c - begin]))
        throw Error(ErrorKind::kCorrupt, "the model computes NaN or infinity on the calibration text");
      sums_.square[c] += strip.square[c - begin];
      sums_.abs[c] += strip.abs[c - begin];
      sums_.max_abs[c] = std::max(sums_.max_abs[c], strip.max_abs[c - begin]);
    }
    if (!gram) return;
    alignas(kLine) float space_of_columns[kStrip * kStride];
    alignas(kLine) float space_of_deltas[kStrip * kStride];
    float* const columns = floats ? floats + begin * kStride : space_of_columns;
    kernels::active().transpose(x.data + begin, x.stride, depth, end - begin, columns, kStride);
    for (size_t c = begin; halves && c < end; ++c)
      round_column(columns + (c - begin) * kStride, depth, halves + c * kStride);
    if (!wanted) return;
    float* const deltas = floats ? floats + (cols + begin) * kStride : space_of_deltas;
    kernels::active().transpose(wanted->data + begin, wanted->stride, depth, end - begin, deltas, kStride);
    for (size_t c = begin; c < end; ++c) {
      float* const delta = deltas + (c - begin) * kStride;
      for (size_t t = 0; t < depth; ++t) delta[t] -= columns[(c - begin) * kStride + t];
      if (halves) round_column(delta, depth, halves + (cols + c) * kStride);
    }
  });
  if (floats) add_products(FloatTiles{x}, floats, wanted ? floats + cols * kStride : nullptr, sums_);
  if (halves) add_products(Bf16Tiles{*units, halves, depth}, halves, wanted ? halves + cols * kStride : nullptr, sums_);
  sums_.tokens += depth;
  ++chunks_;
}

void InputCollector::close_leaf() {
  leaves_.add(leaf_++, sums_);
  sums_.tokens = chunks_ = 0;
  std::fill(sums_.gram.begin(), sums_.gram.end(), 0.0);
  std::fill(sums_.cross.begin(), sums_.cross.end(), 0.0f);
  std::fill(sums_.square.begin(), sums_.square.end(), 0.0);
  std::fill(sums_.abs.begin(), sums_.abs.end(), 0.0);
  std::fill(sums_.max_abs.begin(), sums_.max_abs.end(), 0.0f);
}

StatsTree InputCollector::take() {
  if (chunks_ != 0 || leaves_.empty()) close_leaf();
  return std::move(leaves_);
}

InputStats InputCollector::finish() {
  if (!leaves_.empty()) {
    StatsTree tree = take();
    return tree.finish(std::move(sums_.gram));
  }
  // A single leaf: the same without another matrix.
  InputStats stats;
  stats.cols = cols_;
  stats.tokens = sums_.tokens;
  const double scale = sums_.tokens == 0 ? 0 : 1.0 / static_cast<double>(sums_.tokens);
  for (double& sum : sums_.gram) sum = static_cast<double>(static_cast<float>(sum)) * scale;
  for (float& sum : sums_.cross) sum *= static_cast<float>(scale);
  for (const double sum : sums_.square) stats.mean_square.push_back(static_cast<float>(sum * scale));
  for (const double sum : sums_.abs) stats.mean_abs.push_back(static_cast<float>(sum * scale));
  stats.gram = std::move(sums_.gram);
  stats.cross = std::move(sums_.cross);
  stats.max_abs = std::move(sums_.max_abs);
  return stats;
}

}  // namespace nibble
