#include <algorithm>
#include <cassert>
#include <cstdint>
#include <span>
#include <vector>

#include "core/checked.h"
#include "core/threads.h"
#include "quant/int8_matrix.h"
#include "quant/outliers.h"

namespace nibble {
namespace {

using kernels::Int8Panel;
using kernels::Int8Strip;
using kernels::Int8Table;
using kernels::Int8Tile;
using kernels::Int8Tokens;
using kernels::kInt8Block;
using kernels::kInt8FewTokens;
using kernels::kInt8Rows;

// What a row of each of the weights has; they share it.
struct Extents {
  size_t cols, group, blocks, spans, groups;
};

Extents extents_of(const Int8Matrix& w) {
  return {w.cols(), w.group(), w.blocks(), w.blocks() * kInt8Block / kernels::int8_span(w.group()), w.groups()};
}

// Memory that only grows, handed out in aligned pieces: one for each worker and purpose.
class Scratch {
 public:
  // Room for `bytes` in all, counting 64 for each piece. Earlier pieces are lost.
  void reserve(size_t bytes) {
    if (bytes_.size() < bytes + kAlignment) bytes_.resize(bytes + kAlignment);
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
    used_ = round_up(address, kAlignment) - address;
  }
  template <class T>
  T* take(size_t count) {
    T* const piece = reinterpret_cast<T*>(bytes_.data() + used_);
    used_ += round_up(count * sizeof(T), kAlignment);
    assert(used_ <= bytes_.size());
    return piece;
  }

 private:
  static constexpr size_t kAlignment = 64;
  std::vector<std::byte> bytes_;
  size_t used_ = 0;
};

Int8Tokens take_tokens(Scratch& scratch, const Extents& e, size_t tokens) {
  scratch.reserve(tokens * (e.blocks * (kInt8Block + 4) + e.spans * 4 + e.groups * 4) + size_t{4} * 64);
  return {e.blocks,
          e.spans,
          e.groups,
          scratch.take<int8_t>(tokens * e.blocks * kInt8Block),
          scratch.take<float>(tokens * e.blocks),
          scratch.take<uint32_t>(tokens * e.spans),
          scratch.take<float>(tokens * e.groups)};
}

// Bytes of one strip, each of its arrays a multiple of 64.
size_t strip_bytes(const Extents& e, size_t tokens) {
  const auto piece = [&](size_t bytes) { return round_up(bytes * tokens, 64); };
  return piece(e.blocks * kInt8Block) + piece(e.blocks * 4) + piece(e.spans * 4) + piece(e.groups * 4);
}

Int8Strip strip_at(std::byte* at, const Extents& e, size_t tokens) {
  const auto piece = [&](size_t bytes) {
    std::byte* const begin = at;
    at += round_up(bytes * tokens, 64);
    return begin;
  };
  Int8Strip strip{e.blocks, e.spans, e.groups, nullptr, nullptr, nullptr, nullptr};
  strip.values = reinterpret_cast<uint8_t*>(piece(e.blocks * kInt8Block));
  strip.scales = reinterpret_cast<float*>(piece(e.blocks * 4));
  strip.negated = reinterpret_cast<uint32_t*>(piece(e.spans * 4));
  strip.sums = reinterpret_cast<float*>(piece(e.groups * 4));
  return strip;
}

Int8Panel take_panel(Scratch& scratch, const Extents& e, size_t rows, size_t planes) {
  scratch.reserve(rows * (planes * e.blocks * kInt8Block + e.spans * 4 + e.groups * 12) + size_t{5} * 64);
  Int8Panel panel{e.blocks, e.spans, e.groups, e.group, 0, false, false, nullptr, nullptr, nullptr, nullptr, nullptr};
  panel.codes = scratch.take<uint8_t>(rows * planes * e.blocks * kInt8Block);
  panel.starts = scratch.take<int32_t>(rows * e.spans);
  panel.rest = scratch.take<int32_t>(rows * e.groups);
  panel.scales = scratch.take<float>(rows * e.groups);
  panel.mins = scratch.take<float>(rows * e.groups);
  return panel;
}

// sums [count, width] of rows from `first` on and tokens from `token` on, to y.
void store_sums(const float* sums, size_t width, size_t count, size_t token, size_t first, const Int8Product& product) {
  const size_t rows = std::min(width, product.y.cols - first);
  for (size_t t = 0; t < count; ++t) {
    float* const out = product.y.row(token + t) + first;
    const float* const in = sums + t * width;
    if (product.bias == nullptr)
      std::copy_n(in, rows, out);
    else
      for (size_t r = 0; r < rows; ++r) out[r] = in[r] + product.bias[first + r];
  }
}

// Calls body(product, index within it) for the units [begin, end) of all products in a row; a unit is `tiles` tiles.
template <class Body>
void for_each_unit(std::span<const Int8Product> products, size_t tiles, size_t begin, size_t end, const Body& body) {
  size_t before = 0;  // units of earlier products
  for (const Int8Product& product : products) {
    const size_t after = before + ceil_div(product.w->tiles(), tiles);
    for (; begin < std::min(end, after); ++begin) body(product, begin - before);
    before = after;
  }
}

size_t count_units(std::span<const Int8Product> products, size_t tiles) {
  size_t units = 0;
  for (const Int8Product& product : products) units += ceil_div(product.w->tiles(), tiles);
  return units;
}

// [cols]: a token without its outliers. One for each worker.
float* rest_of(const Extents& e) {
  static thread_local Scratch scratch;
  scratch.reserve(e.cols * sizeof(float) + 64);
  return scratch.take<float>(e.cols);
}

// [columns, rows]: the columns of a weight that meet outliers. One for each worker; room for as many as there can be,
// so that a later token with more of them allocates nothing.
float* columns_of(const Outliers& outliers, size_t rows) {
  static thread_local Scratch scratch;
  scratch.reserve(outliers.most_columns() * rows * sizeof(float) + 64);
  return scratch.take<float>(outliers.most_columns() * rows);
}

// Straight from the packed tiles.
void multiply_few(std::span<const Int8Product> products, const Extents& e, MatrixView<const float> x) {
  const Int8Table& kernel = kernels::active_int8();
  static thread_local Scratch scratch;
  static thread_local Outliers outliers_of_caller;
  Outliers& outliers = outliers_of_caller;
  outliers.reserve(x.rows, e.cols);
  const Int8Tokens tokens = take_tokens(scratch, e, x.rows);
  // Not worth a parallel region.
  for (size_t t = 0; t < x.rows; ++t) {
    float* const rest = rest_of(e);
    outliers.split(t, x.row(t), rest);
    kernel.quantize(rest, e.cols, e.group, tokens, t);
  }
  outliers.collect();
  // About 32,768 weights: see weight_matrix.cpp.
  const size_t grain = std::max<size_t>(1, 32768 / (kInt8Rows * e.blocks * kInt8Block));
  parallel_for(count_units(products, 1), grain, [&](size_t begin, size_t end) {
    float sums[kInt8FewTokens * kInt8Rows];
    float* const columns = columns_of(outliers, kInt8Rows);
    for_each_unit(products, 1, begin, end, [&](const Int8Product& product, size_t index) {
      const Int8Tile tile = product.w->tile(index);
      for (size_t t = 0; t < x.rows; t += kInt8FewTokens) {
        const size_t count = std::min(kInt8FewTokens, x.rows - t);
        kernel.products(tile, tokens, t, count, sums);
        // Only now: what products() streams from memory is in the L1 cache.
        if (t == 0) outliers.load(tile, columns, kInt8Rows);
        for (size_t i = 0; i < count; ++i) outliers.add(t + i, columns, kInt8Rows, sums + i * kInt8Rows);
        store_sums(sums, kInt8Rows, count, t, index * kInt8Rows, product);
      }
    });
  });
}

// Tokens of one task: their strips, which each panel meets, stay in the L3 cache, and the panel is worth its making.
size_t task_strips(const Extents& e, size_t strip) {
  const size_t tokens = std::clamp<size_t>((size_t{2} << 20) / (e.blocks * kInt8Block), 128, 1024);
  return ceil_div(tokens, strip);
}

constexpr size_t kMaxTiles = 2;   // of a panel, in any table
constexpr size_t kMaxSums = 256;  // of a panel and a strip

// Each task unpacks one panel and multiplies it with a range of strips.
void multiply_many(std::span<const Int8Product> products, const Extents& e, MatrixView<const float> x) {
  const Int8Table& kernel = kernels::active_int8();
  const size_t strips = ceil_div(x.rows, kernel.strip), bytes = strip_bytes(e, kernel.strip);
  const auto tokens_of = [&](size_t strip) { return std::min(kernel.strip, x.rows - strip * kernel.strip); };
  static thread_local Scratch all;
  all.reserve(strips * bytes);
  std::byte* const storage = all.take<std::byte>(strips * bytes);
  static thread_local Outliers outliers_of_caller;
  Outliers& outliers = outliers_of_caller;
  outliers.reserve(x.rows, e.cols);
  parallel_for(strips, 4, [&](size_t begin, size_t end) {
    static thread_local Scratch rows;
    const Int8Tokens tokens = take_tokens(rows, e, kernel.strip);
    for (size_t s = begin; s < end; ++s) {
      for (size_t t = 0; t < tokens_of(s); ++t) {
        float* const rest = rest_of(e);
        outliers.split(s * kernel.strip + t, x.row(s * kernel.strip + t), rest);
        kernel.quantize(rest, e.cols, e.group, tokens, t);
      }
      kernel.make_strip(tokens, 0, tokens_of(s), strip_at(storage + s * bytes, e, kernel.strip));
    }
  });

  outliers.collect();

  const size_t panels = count_units(products, kernel.tiles), range = task_strips(e, kernel.strip);
  // Where a weight ends with one tile of a panel, it is there twice; store_sums leaves the second out.
  const auto multiply_panel = [&](const Int8Product& product, size_t index, size_t first_strip, size_t last_strip) {
    const size_t rows = kernel.tiles * kInt8Rows, tile = index * kernel.tiles, last = product.w->tiles() - 1;
    const Int8Tile tiles[kMaxTiles] = {product.w->tile(tile), product.w->tile(std::min(tile + 1, last))};
    static thread_local Scratch scratch;
    Int8Panel panel = take_panel(scratch, e, rows, kernel.planes);
    kernel.make_panel(tiles, panel);
    float* const columns = columns_of(outliers, rows);
    for (size_t i = 0; i < kernel.tiles; ++i) outliers.load(tiles[i], columns + i * kInt8Rows, rows);
    alignas(64) float sums[kMaxSums];
    assert(kernel.tiles <= kMaxTiles && kernel.strip * rows <= kMaxSums);
    for (size_t s = first_strip; s < last_strip; ++s) {
      kernel.panel_products(panel, strip_at(storage + s * bytes, e, kernel.strip), tokens_of(s), sums);
      for (size_t t = 0; t < tokens_of(s); ++t) outliers.add(s * kernel.strip + t, columns, rows, sums + t * rows);
      store_sums(sums, rows, tokens_of(s), s * kernel.strip, tile * kInt8Rows, product);
    }
  };
  parallel_for(panels * ceil_div(strips, range), 1, [&](size_t begin, size_t end) {
    for (size_t task = begin; task < end; ++task) {
      const size_t first = task / panels * range, panel = task % panels;
      for_each_unit(products, kernel.tiles, panel, panel + 1, [&](const Int8Product& product, size_t index) {
        multiply_panel(product, index, first, std::min(strips, first + range));
      });
    }
  });
}

}  // namespace

void multiply(std::span<const Int8Product> products, MatrixView<const float> x) {
  const Int8Matrix& w = *products[0].w;
  for ([[maybe_unused]] const Int8Product& product : products) {
    assert(share_activations(w, *product.w) && x.cols == product.w->cols());
    assert(product.y.rows == x.rows && product.y.cols == product.w->rows());
  }
  if (x.rows == 0) return;
  if (x.rows <= kInt8FewTokens || kernels::active_int8().strip == 0)
    multiply_few(products, extents_of(w), x);
  else
    multiply_many(products, extents_of(w), x);
}

void multiply(const Int8Matrix& w, MatrixView<const float> x, const float* bias, MatrixView<float> y) {
  const Int8Product product{&w, bias, y};
  multiply(std::span(&product, 1), x);
}

}  // namespace nibble
