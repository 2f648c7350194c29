#include "kernels/gemm.h"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <vector>

#include "core/threads.h"
#include "kernels/edge_tile.h"
#include "kernels/kernels.h"

namespace nibble::kernels {
namespace {

// Columns of a panel: one of 48 rows is 72 KiB and stays in L2 while every token passes by. The same for all tables: it
// decides where a sum over the depth is split.
constexpr size_t kDepth = 384;
// Panels that a range of rows holds at once, so that a tile of x read into L1 meets several of them.
constexpr size_t kPanels = 2;
// Rows dequantized before they are transposed into the panel: few enough that they are still in L1.
constexpr size_t kBlockRows = 16;
// Rows of that block are this far apart, so that its columns do not all fall into the same cache sets.
constexpr size_t kBlockStride = kDepth + 16;

// Floats of one thread, kept from call to call, aligned to a cache line.
float* scratch(size_t size) {
  static thread_local std::vector<float> storage;
  constexpr size_t kLine = 64 / sizeof(float);
  if (storage.size() < size + kLine) storage.resize(size + kLine);
  const auto address = reinterpret_cast<uintptr_t>(storage.data());
  return storage.data() + (kLine - address / sizeof(float) % kLine) % kLine;
}

// Adds columns [begin, begin + depth) of the product of rows [first, first + rows), rows <= kPanels * tile_rows, to y.
class RowRange {
 public:
  RowRange(const Table& table, const RowLoader& weights, size_t first, size_t rows)
      : table_(table), weights_(weights), first_(first), rows_(rows) {
    const size_t tile_rows = table.tile_rows;
    block_ = scratch(kBlockRows * kBlockStride + kPanels * kDepth * tile_rows + table.tile_tokens * tile_rows);
    panels_ = block_ + kBlockRows * kBlockStride;
    edge_ = panels_ + kPanels * kDepth * tile_rows;
  }

  void accumulate(MatrixView<const float> x, size_t begin, size_t depth, bool add, MatrixView<float> y) {
    const size_t tile_rows = table_.tile_rows;
    for (size_t r = 0; r < rows_; r += tile_rows) pack(r, begin, depth);
    for (size_t t = 0; t < x.rows; t += table_.tile_tokens) {
      const size_t tokens = std::min(table_.tile_tokens, x.rows - t);
      for (size_t r = 0; r < rows_; r += tile_rows) {
        const size_t rows = std::min(tile_rows, rows_ - r);
        const MatrixView<float> out = {y.row(t) + first_ + r, tokens, rows, y.stride};
        multiply_tile(table_.gemm_tile, table_.tile_rows, x.row(t) + begin, x.stride, panels_ + r * kDepth, depth, add,
                      edge_, out);
      }
    }
  }

 private:
  // Panel of rows [r, r + tile_rows): [depth, tile_rows], rows past the end zero.
  void pack(size_t r, size_t begin, size_t depth) {
    const size_t tile_rows = table_.tile_rows;
    const size_t rows = std::min(tile_rows, rows_ - r);
    float* panel = panels_ + r * kDepth;
    if (rows < tile_rows) std::fill_n(panel, depth * tile_rows, 0.0f);
    for (size_t i = 0; i < rows; i += kBlockRows) {
      const size_t count = std::min(kBlockRows, rows - i);
      for (size_t k = 0; k < count; ++k)
        weights_.load(weights_.self, first_ + r + i + k, begin, depth, block_ + k * kBlockStride);
      table_.transpose(block_, kBlockStride, count, depth, panel + i, tile_rows);
    }
  }

  const Table& table_;
  const RowLoader& weights_;
  size_t first_;
  size_t rows_;
  float* block_;   // [kBlockRows, kBlockStride]: dequantized weights as they are stored
  float* panels_;  // [kPanels, kDepth, tile_rows]
  float* edge_;    // [tile_tokens, tile_rows]
};

}  // namespace

void gemm(const Table& table, MatrixView<const float> x, const RowLoader& w, const float* bias, MatrixView<float> y) {
  assert(x.rows == y.rows);
  if (x.rows == 0) return;
  parallel_for(y.cols, kPanels * table.tile_rows, [&](size_t begin, size_t end) {
    if (bias != nullptr)
      for (size_t t = 0; t < y.rows; ++t) std::copy(bias + begin, bias + end, y.row(t) + begin);
    RowRange range(table, w, begin, end - begin);
    for (size_t c = 0; c == 0 || c < x.cols; c += kDepth)
      range.accumulate(x, c, std::min(kDepth, x.cols - c), bias != nullptr || c > 0, y);
  });
}

void gemm(MatrixView<const float> x, const RowLoader& w, const float* bias, MatrixView<float> y) {
  gemm(active(), x, w, bias, y);
}

}  // namespace nibble::kernels
