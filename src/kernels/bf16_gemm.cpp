#include <algorithm>
#include <cassert>
#include <cstdint>
#include <vector>

#include "core/threads.h"
#include "kernels/bf16.h"
#include "kernels/edge_tile.h"
#include "kernels/gemm.h"
#include "kernels/kernels.h"

namespace nibble::kernels {

#if defined(__x86_64__)
extern const Bf16Table bf16_avx512;
#endif

namespace {

// As in gemm.cpp, with twice the columns in as many bytes.
constexpr size_t kDepth = 768;
constexpr size_t kPanels = 2;
constexpr size_t kBlockRows = 16;
constexpr size_t kBlockStride = kDepth + 32;
constexpr size_t kLine = 64;  // bytes

template <class T>
T* grown(std::vector<T>& storage, size_t size) {
  constexpr size_t kOfLine = kLine / sizeof(T);
  if (storage.size() < size + kOfLine) storage.resize(size + kOfLine);
  const auto address = reinterpret_cast<uintptr_t>(storage.data());
  return storage.data() + (kOfLine - address / sizeof(T) % kOfLine) % kOfLine;
}

// The tokens in bf16, cut into blocks of kDepth columns: block b is [tokens, kDepth] at data + b * tokens * kDepth, the
// last one's rows are only as long as it is deep, rounded up to a pair. So the rows of a tile lie one behind the other
// and do not compete for the same cache sets.
class Tokens {
 public:
  Tokens(const Table& table, MatrixView<const float> x, std::vector<uint16_t>& storage)
      : tokens_(x.rows), cols_(x.cols), data_(grown(storage, x.rows * (x.cols + 1))) {
    parallel_for(x.rows, 8, [&](size_t begin, size_t end) {
      for (size_t t = begin; t < end; ++t)
        for (size_t c = 0; c < cols_; c += kDepth) {
          uint16_t* const out = data_ + c * tokens_ + t * stride(c);
          table.f32_to_bf16(x.row(t) + c, out, depth(c));
          if (depth(c) % 2 != 0) out[depth(c)] = 0;
        }
    });
  }

  size_t count() const { return tokens_; }
  // Of the block that begins at column c.
  size_t depth(size_t c) const { return std::min(kDepth, cols_ - c); }
  size_t stride(size_t c) const { return (depth(c) + 1) / 2 * 2; }
  const uint16_t* row(size_t c, size_t t) const { return data_ + c * tokens_ + t * stride(c); }

 private:
  size_t tokens_, cols_;
  uint16_t* data_;
};

// Rows [first, first + rows), rows <= kPanels * tile_rows: as RowRange of gemm.cpp.
class RowRange {
 public:
  RowRange(const Bf16Table& units, const Bf16Loader& weights, size_t first, size_t rows)
      : units_(units), weights_(weights), first_(first), rows_(rows) {
    static thread_local std::vector<uint16_t> halves;
    static thread_local std::vector<float> floats;
    panels_ = grown(halves, kPanels * kDepth * units.tile_rows + kBlockRows * kBlockStride);
    block_ = panels_ + kPanels * kDepth * units.tile_rows;
    edge_ = grown(floats, units.tile_tokens * units.tile_rows);
  }

  // Adds the product of the block of columns that begins at c.
  void accumulate(const Tokens& x, size_t c, bool add, MatrixView<float> y) {
    const size_t tile_rows = units_.tile_rows, pairs = x.stride(c) / 2;
    for (size_t r = 0; r < rows_; r += tile_rows) pack(r, c, x.depth(c));
    for (size_t t = 0; t < x.count(); t += units_.tile_tokens) {
      const size_t tokens = std::min(units_.tile_tokens, x.count() - t);
      for (size_t r = 0; r < rows_; r += tile_rows) {
        const size_t rows = std::min(tile_rows, rows_ - r);
        const MatrixView<float> out = {y.row(t) + first_ + r, tokens, rows, y.stride};
        multiply_tile(units_.gemm_tile, units_.tile_rows, x.row(c, t), x.stride(c), panels_ + r * kDepth, pairs, add,
                      edge_, out);
      }
    }
  }

 private:
  // Panel of rows [r, r + tile_rows): [pairs, tile_rows, 2], rows past the end zero.
  void pack(size_t r, size_t begin, size_t depth) {
    const size_t tile_rows = units_.tile_rows;
    const size_t rows = std::min(tile_rows, rows_ - r);
    uint16_t* panel = panels_ + r * kDepth;
    if (rows < tile_rows) std::fill_n(panel, (depth + 1) / 2 * 2 * tile_rows, uint16_t{0});
    for (size_t i = 0; i < rows; i += kBlockRows) {
      const size_t count = std::min(kBlockRows, rows - i);
      for (size_t k = 0; k < count; ++k)
        weights_.load(weights_.self, first_ + r + i + k, begin, depth, block_ + k * kBlockStride);
      units_.pack_pairs(block_, kBlockStride, count, depth, panel + 2 * i, tile_rows);
    }
  }

  const Bf16Table& units_;
  const Bf16Loader& weights_;
  size_t first_;
  size_t rows_;
  uint16_t* panels_;  // [kPanels, kDepth / 2, tile_rows, 2]
  uint16_t* block_;   // [kBlockRows, kBlockStride]: weights row by row
  float* edge_;       // [tile_tokens, tile_rows]
};

// The weights of a Bf16Loader as floats.
struct Widened {
  const Table& table;
  const Bf16Loader& weights;

  static void load(const void* self, size_t row, size_t begin, size_t count, float* out) noexcept {
    const auto& w = *static_cast<const Widened*>(self);
    uint16_t halves[256];
    for (size_t done = 0; done < count;) {
      const size_t n = std::min(count - done, std::size(halves));
      w.weights.load(w.weights.self, row, begin + done, n, halves);
      w.table.bf16_to_f32(halves, out + done, n);
      done += n;
    }
  }
};

void gemm_with_floats(const Table& table, MatrixView<const float> x, const Bf16Loader& w, const float* bias,
                      MatrixView<float> y) {
  static thread_local std::vector<uint16_t> halves;
  static thread_local std::vector<float> floats;
  const size_t size = x.rows * x.cols;
  uint16_t* const narrow = grown(halves, size);
  float* const wide = grown(floats, size);
  parallel_for(x.rows, 8, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
      table.f32_to_bf16(x.row(t), narrow + t * x.cols, x.cols);
      table.bf16_to_f32(narrow + t * x.cols, wide + t * x.cols, x.cols);
    }
  });
  const Widened widened = {table, w};
  gemm(table, matrix<const float>(wide, x.rows, x.cols), {&widened, Widened::load}, bias, y);
}

}  // namespace

const Bf16Table* find_bf16(const Table& table) {
#if defined(__x86_64__)
  if (bf16_avx512.kernels == table.name && bf16_avx512.usable()) return &bf16_avx512;
#endif
  static_cast<void>(table);
  return nullptr;
}

const Bf16Table* fast_bf16(const Table& table) {
  const Bf16Table* const found = find_bf16(table);
  return found != nullptr && found->fast() ? found : nullptr;
}

void gemm_bf16(const Table& table, const Bf16Table* units, MatrixView<const float> x, const Bf16Loader& w,
               const float* bias, MatrixView<float> y) {
  assert(x.rows == y.rows);
  if (x.rows == 0) return;
  if (units == nullptr) {
    gemm_with_floats(table, x, w, bias, y);
    return;
  }
  static thread_local std::vector<uint16_t> storage;
  const Tokens tokens(table, x, storage);
  parallel_for(y.cols, kPanels * units->tile_rows, [&](size_t begin, size_t end) {
    if (bias != nullptr)
      for (size_t t = 0; t < y.rows; ++t) std::copy(bias + begin, bias + end, y.row(t) + begin);
    RowRange range(*units, w, begin, end - begin);
    for (size_t c = 0; c == 0 || c < x.cols; c += kDepth) range.accumulate(tokens, c, bias != nullptr || c > 0, y);
  });
}

void gemm_bf16(MatrixView<const float> x, const Bf16Loader& w, const float* bias, MatrixView<float> y) {
  static const Bf16Table* const units = fast_bf16(active());
  gemm_bf16(active(), units, x, w, bias, y);
}

}  // namespace nibble::kernels
