#include "quant/packed_permutation.h"

#include <algorithm>
#include <cassert>
#include <numeric>
#include <utility>
#include <vector>

#include "core/threads.h"

namespace nibble {
namespace {

double* packed_row(std::span<double> h, size_t i) { return h.data() + i * (i + 1) / 2; }

// Exchanges indices p < q among those up to q.
void exchange(std::span<double> h, size_t p, size_t q) {
  double* const row_p = packed_row(h, p);
  double* const row_q = packed_row(h, q);
  std::swap_ranges(row_p, row_p + p, row_q);
  for (size_t k = p + 1; k < q; ++k) std::swap(packed_row(h, k)[p], row_q[k]);
  std::swap(row_p[p], row_q[q]);
}

}  // namespace

// Exchanges bring the last index to its place first, then the one before it, and so on. The rows behind are in place by
// then and only their columns still move: each row catches up on that by itself, while it is in cache. What remains of
// an exchange costs one column of the rows between its two indices.
void permute_packed(std::span<double> h, std::span<const uint32_t> order) {
  const size_t n = order.size();
  assert(h.size() == n * (n + 1) / 2);
  std::vector<uint32_t> at(n), place(n), partner(n);  // at[i]: the index now at i; place: its inverse
  std::iota(at.begin(), at.end(), uint32_t{0});
  std::iota(place.begin(), place.end(), uint32_t{0});
  for (size_t q = n; q-- > 0;) {
    const uint32_t p = place[order[q]];
    partner[q] = p;
    if (p != q) exchange(h, p, q);
    at[p] = at[q];
    place[at[p]] = p;
  }
  parallel_for(n, 16, [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      double* const row = packed_row(h, r);
      for (size_t q = r; q-- > 0;) std::swap(row[partner[q]], row[q]);
    }
  });
}

}  // namespace nibble
