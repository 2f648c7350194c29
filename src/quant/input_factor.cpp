#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "core/checked.h"
#include "core/threads.h"
#include "quant/asymmetric_correction.h"
#include "quant/input_stats.h"
#include "quant/packed_cholesky.h"
#include "quant/packed_permutation.h"

namespace nibble {
namespace {

constexpr double kDampStep = 0.01, kMostDamp = 1.0;

size_t diagonal(size_t i) { return i * (i + 3) / 2; }

std::vector<float> importance_of(const InputStats& stats) {
  if (stats.gram.empty()) return stats.mean_square;
  std::vector<float> importance(stats.cols);
  for (size_t j = 0; j < stats.cols; ++j) importance[j] = static_cast<float>(stats.gram[diagonal(j)]);
  return importance;
}

// Equals stay in the order of their columns.
std::vector<uint32_t> order_columns(const std::vector<float>& importance, const FactorOptions& options) {
  const size_t n = importance.size();
  std::vector<uint32_t> order(n);
  std::iota(order.begin(), order.end(), uint32_t{0});
  const auto by_importance = [&](uint32_t a, uint32_t b) { return importance[a] > importance[b]; };
  if (options.order == ColumnOrder::kNatural || n == 0) return order;
  if (options.order == ColumnOrder::kActOrder) {
    std::stable_sort(order.begin(), order.end(), by_importance);
    return order;
  }
  const size_t group = options.group == 0 ? n : options.group;
  std::vector<uint32_t> groups(ceil_div(n, group));
  std::vector<float> largest(groups.size());
  std::iota(groups.begin(), groups.end(), uint32_t{0});
  for (size_t j = 0; j < n; ++j) largest[j / group] = std::max(largest[j / group], importance[j]);
  std::stable_sort(groups.begin(), groups.end(), [&](uint32_t a, uint32_t b) { return largest[a] > largest[b]; });
  auto next = order.begin();
  for (const uint32_t g : groups) {
    const auto begin = next;
    next += static_cast<ptrdiff_t>(std::min(group, n - g * group));
    std::iota(begin, next, static_cast<uint32_t>(g * group));
    std::stable_sort(begin, next, by_importance);
  }
  return order;
}

bool all_finite(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value * 0.0;
  return sum == 0;
}

void add_to_diagonal(std::span<double> h, size_t n, double amount) {
  for (size_t i = 0; i < n; ++i) h[diagonal(i)] += amount;
}

// `wide` in float; its memory goes back to the system as it is read, so that the two never exist side by side.
std::vector<float> narrow(std::vector<double>& wide) {
  std::vector<float> out;
  out.reserve(wide.size());  // address space; memory as it is written
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  auto* const bytes = reinterpret_cast<std::byte*>(wide.data());
  const size_t first = (page - reinterpret_cast<uintptr_t>(bytes) % page) % page;  // offset of the first whole page
  size_t released = first;
  constexpr size_t kChunk = size_t{1} << 20;
  for (size_t begin = 0; begin < wide.size(); begin += kChunk) {
    const size_t end = std::min(wide.size(), begin + kChunk);
    for (size_t i = begin; i < end; ++i) out.push_back(static_cast<float>(wide[i]));
    if (end == wide.size()) break;
    const size_t whole = first + (end * sizeof(double) - first) / page * page;
    madvise(bytes + released, whole - released, MADV_DONTNEED);
    released = whole;
  }
  wide = {};
  return out;
}

}  // namespace

InputFactor factor_inputs(InputStats&& stats, const FactorOptions& options) {
  const size_t n = stats.cols;
  InputFactor result;
  result.cols = n;
  result.importance = importance_of(stats);
  result.order = order_columns(result.importance, options);
  if (stats.gram.empty()) return result;
  assert(stats.gram.size() == n * (n + 1) / 2);

  const std::span<double> h = stats.gram;
  if (!all_finite(h)) {  // no damping helps
    stats.gram = {};
    return result;
  }
  double mean = 0;
  for (size_t j = 0; j < n; ++j) mean += h[diagonal(j)] / static_cast<double>(n);
  for (size_t j = 0; j < n; ++j)
    if (result.importance[j] == 0) h[diagonal(j)] = 1.0;
  if (options.order != ColumnOrder::kNatural) permute_packed(h, result.order);

  for (double percdamp = options.percdamp; percdamp <= kMostDamp + 1e-9; percdamp += kDampStep) {
    add_to_diagonal(h, n, (percdamp - result.percdamp) * mean);
    result.percdamp = percdamp;
    result.damp = percdamp * mean;
    if (!factor_packed(h, n)) continue;
    result.factor = narrow(stats.gram);
    if (options.alpha != 0 && !stats.cross.empty())
      result.correction = asymmetric_correction(result, stats.cross, options.alpha);
    return result;
  }
  stats.gram = {};
  return result;
}

}  // namespace nibble
