#include "quant/packed_cholesky.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <vector>

#include "core/checked.h"
#include "core/threads.h"
#include "kernels/cholesky.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

// Rows of a block: a panel of 24 columns is 24 KiB, so that two of them nearly fit the first-level cache.
constexpr size_t kBlock = 128;

class Factorization {
 public:
  Factorization(std::span<double> h, size_t n)
      : h_(h.data()), n_(n), table_(kernels::cholesky_table(kernels::active())), width_(table_.panel_cols) {
    double largest = 0;
    for (size_t i = 0; i < n; ++i) largest = std::max(largest, row(i)[i]);
    smallest_pivot_ = static_cast<double>(n) * std::numeric_limits<double>::epsilon() * largest;
    upper_.resize(kBlock * kBlock);
    panels_.resize(ceil_div(n, width_) * kBlock * width_);
  }

  bool run() {
    for (size_t end = n_; end > 0;) {
      const size_t begin = end - std::min(end, kBlock);
      if (!factor_diagonal(begin, end)) {
        undo(end);
        return false;
      }
      parallel_for(ceil_div(begin, width_), 1, [&](size_t p, size_t) {
        load_panel(p, begin, end);
        table_.solve(upper_.data(), end - begin, panel(p));
        store_panel(p, begin, end);
      });
      add_products(begin, end - begin, -1.0);
      end = begin;
    }
    return true;
  }

 private:
  double* row(size_t i) { return h_ + i * (i + 1) / 2; }
  double* panel(size_t p) { return panels_.data() + p * kBlock * width_; }

  // The diagonal block, and its transpose in upper_. Nothing is written when it fails.
  bool factor_diagonal(size_t begin, size_t end) {
    const size_t depth = end - begin;
    double* const u = upper_.data();  // u[k][i] is element (i, k) of the block
    for (size_t i = 0; i < depth; ++i)
      for (size_t k = 0; k <= i; ++k) u[k * depth + i] = row(begin + i)[begin + k];
    for (size_t i = depth; i-- > 0;) {
      const double pivot = u[i * depth + i];
      if (!(pivot > smallest_pivot_) || !std::isfinite(pivot)) return false;
      const double root = std::sqrt(pivot);
      double line[kBlock];  // row i of L
      for (size_t k = 0; k <= i; ++k) line[k] = u[k * depth + i] /= root;
      for (size_t k = 0; k < i; ++k)
        for (size_t j = k; j < i; ++j) u[k * depth + j] -= line[k] * line[j];
    }
    for (size_t i = 0; i < depth; ++i)
      for (size_t k = 0; k <= i; ++k) row(begin + i)[begin + k] = u[k * depth + i];
    return true;
  }

  // Columns of panel p that lie before `begin`; the rest of the panel is zero.
  size_t panel_columns(size_t p, size_t begin) const { return std::min(width_, begin - p * width_); }

  void load_panel(size_t p, size_t begin, size_t end) {
    const size_t count = panel_columns(p, begin);
    double* out = panel(p);
    for (size_t i = begin; i < end; ++i, out += width_) {
      std::copy_n(row(i) + p * width_, count, out);
      std::fill(out + count, out + width_, 0.0);
    }
  }
  void store_panel(size_t p, size_t begin, size_t end) {
    const size_t count = panel_columns(p, begin);
    const double* in = panel(p);
    for (size_t i = begin; i < end; ++i, in += width_) std::copy_n(in, count, row(i) + p * width_);
  }

  // H[j][k] += sign * sum_i L[i][j] L[i][k] for k <= j < begin, i over the block whose panels are loaded. The long rows
  // come first, so that threads finish together.
  void add_products(size_t begin, size_t depth, double sign) {
    const size_t panels = ceil_div(begin, width_), rows = table_.tile_rows;
    parallel_for(panels, 1, [&](size_t index, size_t) {
      const size_t p = panels - 1 - index;
      double tile[8 * 24];
      assert(rows * width_ <= std::size(tile));
      for (size_t q = 0; q <= p; ++q)
        for (size_t s = 0; s < width_ && p * width_ + s < begin; s += rows) {
          table_.products(panel(p) + s, panel(q), depth, tile);
          for (size_t r = 0; r < rows; ++r) {
            const size_t j = p * width_ + s + r;
            if (j >= begin) break;
            double* const out = row(j) + q * width_;
            const size_t count = std::min(width_, j + 1 - q * width_);
            for (size_t c = 0; c < count; ++c) out[c] += sign * tile[r * width_ + c];
          }
        }
    });
  }

  // Multiplies the finished blocks, from row `begin` on, out again.
  void undo(size_t begin) {
    for (; begin < n_; begin += kBlock) {
      const size_t end = begin + kBlock;
      for (size_t p = 0; p < ceil_div(begin, width_); ++p) load_panel(p, begin, end);
      add_products(begin, kBlock, 1.0);
      for (size_t i = begin; i < end; ++i)
        for (size_t k = 0; k <= i; ++k) {
          double sum = 0;
          for (size_t m = i; m < end; ++m) sum += row(m)[i] * row(m)[k];
          row(i)[k] = sum;
        }
    }
  }

  double* h_;
  size_t n_;
  const kernels::CholeskyTable& table_;
  size_t width_;  // of a panel
  double smallest_pivot_;
  std::vector<double> upper_;   // [depth, depth]: the transpose of the block's triangle
  std::vector<double> panels_;  // [panels, kBlock, width_]
};

}  // namespace

bool factor_packed(std::span<double> h, size_t n) {
  assert(h.size() == n * (n + 1) / 2);
  return Factorization(h, n).run();
}

}  // namespace nibble
