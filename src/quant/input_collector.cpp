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

// One chunk of inputs, column by column, and the product X^T X of it. Float: tiles of Table::gemm_tile. Row c of
// `columns` holds the chunk's values of column c.
struct FloatTiles {
  using Value = float;
  const kernels::Table& table = kernels::active();

  size_t tokens() const { return table.tile_tokens; }
  size_t rows() const { return table.tile_rows; }
  void store(const float* column, size_t count, float* out) const { std::copy_n(column, count, out); }
  void pack(const float* columns, size_t rows_in, size_t depth, float* panel) const {
    table.transpose(columns, kStride, rows_in, depth, panel, rows());
  }
  void multiply(const float* columns, const float* panel, size_t depth, float* acc, size_t count) const {
    table.gemm_tile(columns, kStride, panel, depth, acc, rows(), count, false);
  }
};

// The same in bf16: pairs of tokens.
struct Bf16Tiles {
  using Value = uint16_t;
  const kernels::Bf16Table& units;
  const kernels::Table& table = kernels::active();

  size_t tokens() const { return units.tile_tokens; }
  size_t rows() const { return units.tile_rows; }
  void store(const float* column, size_t count, uint16_t* out) const {
    table.f32_to_bf16(column, out, count);
    if (count % 2 != 0) out[count] = 0;
  }
  void pack(const uint16_t* columns, size_t rows_in, size_t depth, uint16_t* panel) const {
    units.pack_pairs(columns, kStride, rows_in, depth, panel, rows());
  }
  void multiply(const uint16_t* columns, const uint16_t* panel, size_t depth, float* acc, size_t count) const {
    units.gemm_tile(columns, kStride, panel, (depth + 1) / 2, acc, rows(), count, false);
  }
};

// gram += X^T X; `columns` is [cols, kStride] of `depth` values.
template <class Tiles>
void add_products(const Tiles& tiles, const typename Tiles::Value* columns, size_t cols, size_t depth,
                  std::vector<double>& gram) {
  using Value = typename Tiles::Value;
  const size_t width = tiles.rows();
  parallel_for((cols + width - 1) / width, 1, [&](size_t first, size_t last) {
    static thread_local std::vector<Value> panel_storage;
    static thread_local std::vector<float> acc_storage;
    Value* const panel = aligned(panel_storage, width * (InputCollector::kChunk + 2));
    float* const acc = aligned(acc_storage, tiles.tokens() * width);
    for (size_t p = first; p < last; ++p) {
      const size_t begin = p * width, count = std::min(width, cols - begin);
      if (count < width) std::fill_n(panel, width * (depth + depth % 2), Value{});
      tiles.pack(columns + begin * kStride, count, depth, panel);
      for (size_t r = begin; r < cols; r += tiles.tokens()) {
        const size_t rows = std::min(tiles.tokens(), cols - r);
        tiles.multiply(columns + r * kStride, panel, depth, acc, rows);
        for (size_t i = 0; i < rows; ++i) {
          const size_t row = r + i, end = std::min(count, row + 1 - begin);  // c <= row: the lower triangle
          double* const sums = gram.data() + row * (row + 1) / 2 + begin;
          for (size_t c = 0; c < end; ++c) sums[c] += static_cast<double>(acc[i * width + c]);
        }
      }
    }
  });
}

}  // namespace

InputCollector::InputCollector(size_t cols, bool gram, bool bf16) : square_(cols), abs_(cols), bf16_(bf16) {
  sums_.cols = cols;
  sums_.max_abs.resize(cols);
  if (gram) sums_.gram.resize(cols * (cols + 1) / 2);
}

void InputCollector::add(MatrixView<const float> x) {
  for (size_t t = 0; t < x.rows; t += kChunk) add_chunk({x.row(t), std::min(kChunk, x.rows - t), x.cols, x.stride});
  sums_.tokens += x.rows;
}

void InputCollector::add_chunk(MatrixView<const float> x) {
  const size_t cols = sums_.cols, depth = x.rows;
  const bool gram = !sums_.gram.empty();
  const kernels::Bf16Table* units = bf16_ ? kernels::find_bf16(kernels::active()) : nullptr;
  static thread_local std::vector<float> float_storage;
  static thread_local std::vector<uint16_t> half_storage;
  float* const floats = gram && !units ? aligned(float_storage, cols * kStride) : nullptr;
  uint16_t* const halves = gram && units ? aligned(half_storage, cols * kStride) : nullptr;
  parallel_for(cols, kStrip, [&](size_t begin, size_t end) {
    alignas(kLine) float strip[kStrip * kStride];
    kernels::active().transpose(x.data + begin, x.stride, depth, end - begin, strip, kStride);
    for (size_t c = begin; c < end; ++c) {
      const float* column = strip + (c - begin) * kStride;
      double square = 0, sum = 0;
      float most = 0;
      for (size_t t = 0; t < depth; ++t) {
        const float a = std::abs(column[t]);
        square += static_cast<double>(a) * static_cast<double>(a);
        sum += static_cast<double>(a);
        most = std::max(most, a);
      }
      if (!std::isfinite(square))
        throw Error(ErrorKind::kCorrupt, "the model computes NaN or infinity on the calibration text");
      square_[c] += square;
      abs_[c] += sum;
      sums_.max_abs[c] = std::max(sums_.max_abs[c], most);
      if (floats) FloatTiles{}.store(column, depth, floats + c * kStride);
      if (halves) Bf16Tiles{*units}.store(column, depth, halves + c * kStride);
    }
  });
  if (floats) add_products(FloatTiles{}, floats, cols, depth, sums_.gram);
  if (halves) add_products(Bf16Tiles{*units}, halves, cols, depth, sums_.gram);
}

InputStats InputCollector::finish() {
  const double scale = sums_.tokens == 0 ? 0 : 1.0 / static_cast<double>(sums_.tokens);
  for (double& sum : sums_.gram) sum *= scale;
  for (const double sum : square_) sums_.mean_square.push_back(static_cast<float>(sum * scale));
  for (const double sum : abs_) sums_.mean_abs.push_back(static_cast<float>(sum * scale));
  return std::move(sums_);
}

}  // namespace nibble
