#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/threads.h"
#include "quant/packed_cholesky.h"
#include "quant/packed_permutation.h"
#include "quant/sample_inputs.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr double kStep = 0.01;  // of the damping ladder

// Largest |(L^T L)_ij - H_ij| relative to sqrt(H_ii H_jj), H damped and in the factor's order.
double reconstruction_error(const InputFactor& factor, const Square& h) {
  const size_t n = factor.cols;
  double worst = 0;
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (size_t m = i; m < n; ++m) sum += double{factor.row(m)[i]} * double{factor.row(m)[j]};
      const auto damped = [&](size_t a, size_t b) {
        const uint32_t r = factor.order[a], c = factor.order[b];
        const double own = r == c && factor.importance[r] == 0 ? 1.0 : h[r][c];
        return own + (r == c ? factor.damp : 0);
      };
      worst = std::max(worst, std::abs(sum - damped(i, j)) / std::sqrt(damped(i, i) * damped(j, j)));
    }
  return worst;
}

TEST(FactorInputs, ReconstructsH) {
  for (const size_t n :
       {size_t{1}, size_t{2}, size_t{5}, size_t{23}, size_t{24}, size_t{127}, size_t{128}, size_t{129}, size_t{300}})
    for (const ColumnOrder order : {ColumnOrder::kNatural, ColumnOrder::kActOrder, ColumnOrder::kGroupAware}) {
      InputStats stats = random_inputs(n, 2 * n, n);
      const Square h = full_gram(stats);
      const InputFactor factor = factor_inputs(std::move(stats), {.order = order, .group = 16});
      ASSERT_EQ(factor.factor.size(), n * (n + 1) / 2);
      EXPECT_EQ(factor.percdamp, 0.01);
      EXPECT_LT(reconstruction_error(factor, h), 1e-6) << n;
    }
}

TEST(FactorInputs, OrdersColumns) {
  InputStats stats;
  stats.cols = 7;
  stats.mean_square = {1, 5, 3, 3, 4, 0, 9};
  const auto order = [&](ColumnOrder kind, size_t group) {
    InputStats copy = stats;
    return factor_inputs(std::move(copy), {.order = kind, .group = group}).order;
  };
  using Order = std::vector<uint32_t>;
  EXPECT_EQ(order(ColumnOrder::kNatural, 0), (Order{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(order(ColumnOrder::kActOrder, 0), (Order{6, 1, 4, 2, 3, 0, 5}));
  EXPECT_EQ(order(ColumnOrder::kGroupAware, 3), (Order{6, 1, 2, 0, 4, 3, 5}));  // a short last group
  EXPECT_EQ(order(ColumnOrder::kGroupAware, 0), (Order{6, 1, 4, 2, 3, 0, 5}));
  const InputFactor factor = factor_inputs(std::move(stats), {});
  EXPECT_TRUE(factor.factor.empty());  // there was no Gram matrix
  EXPECT_EQ(factor.importance, (std::vector<float>{1, 5, 3, 3, 4, 0, 9}));
}

TEST(FactorInputs, DampsMoreWhereHIsSingular) {
  for (const size_t n : {size_t{40}, size_t{300}}) {  // the failure comes after a finished block in the second
    InputStats stats = random_inputs(n, n / 4, 3);
    const Square h = full_gram(stats);
    const InputFactor factor = factor_inputs(std::move(stats), {.percdamp = 0});
    EXPECT_EQ(factor.percdamp, kStep);
    EXPECT_LT(reconstruction_error(factor, h), 1e-6);
  }
}

// All columns alike but for a negative eigenvalue of -5 % of the mean.
TEST(FactorInputs, ClimbsTheLadderOrGivesUp) {
  const auto with_lowest = [](double lowest) {
    InputStats stats;
    stats.cols = 2;
    stats.gram = {1, 1 - lowest, 1};  // eigenvalues lowest, 2 - lowest
    stats.mean_square = {1, 1};
    return stats;
  };
  EXPECT_NEAR(factor_inputs(with_lowest(-0.045), {.percdamp = 0.01}).percdamp, 0.05, 1e-12);
  EXPECT_NEAR(factor_inputs(with_lowest(-0.995), {.percdamp = 0.01}).percdamp, 1.0, 1e-12);
  const InputFactor hopeless = factor_inputs(with_lowest(-1.5), {});
  EXPECT_TRUE(hopeless.factor.empty());
  EXPECT_EQ(hopeless.importance, (std::vector<float>{1, 1}));
  EXPECT_EQ(hopeless.order.size(), 2u);
}

TEST(FactorInputs, GivesUpOnNaN) {
  for (const size_t where : {size_t{0}, size_t{100}, size_t{464}}) {
    InputStats stats = random_inputs(30, 60, 1);
    stats.gram[where] = std::numeric_limits<double>::quiet_NaN();
    EXPECT_TRUE(factor_inputs(std::move(stats), {}).factor.empty());
  }
}

TEST(FactorInputs, DeadColumnsStandAlone) {
  InputStats stats = random_inputs(30, 60, 1);
  kill_column(stats, 7);
  kill_column(stats, 29);
  const Square h = full_gram(stats);
  for (const ColumnOrder order : {ColumnOrder::kNatural, ColumnOrder::kActOrder}) {
    InputStats copy = stats;
    const InputFactor factor = factor_inputs(std::move(copy), {.order = order});
    EXPECT_EQ(factor.importance[7], 0);
    EXPECT_LT(reconstruction_error(factor, h), 1e-6);
    for (size_t i = 0; i < 30; ++i)
      for (size_t j = 0; j < i; ++j)
        if (factor.order[j] == 7 || factor.order[i] == 7) {
          EXPECT_EQ(factor.row(i)[j], 0);
        }
  }
}

TEST(FactorInputs, DoesNotDependOnTheThreadCount) {
  const InputStats stats = random_inputs(300, 400, 9);
  const auto run = [&](size_t threads) {
    set_thread_count(threads);
    InputStats copy = stats;
    return factor_inputs(std::move(copy), {.order = ColumnOrder::kActOrder}).factor;
  };
  const auto one = run(1), three = run(3);
  set_thread_count(0);
  EXPECT_EQ(one, three);
}

TEST(PackedCholesky, LeavesWhatItCannotFactor) {
  // Positive definite but for the first columns, which come last: two blocks are finished before it fails.
  const size_t n = 290;
  InputStats stats = random_inputs(n, 2 * n, 4);
  stats.gram[0] = -1;
  std::vector<double> h = stats.gram;
  EXPECT_FALSE(factor_packed(h, n));
  for (size_t r = 0; r < n; ++r)
    for (size_t c = 0; c <= r; ++c) {
      const size_t i = r * (r + 1) / 2 + c;
      ASSERT_NEAR(h[i], stats.gram[i],
                  1e-13 * std::sqrt(std::abs(stats.gram[r * (r + 3) / 2] * stats.gram[c * (c + 3) / 2])));
    }
}

TEST(PackedPermutation, MovesEveryElement) {
  for (const size_t n : {size_t{0}, size_t{1}, size_t{2}, size_t{5}, size_t{70}})
    for (uint64_t seed = 0; seed < 5; ++seed) {
      Random random(seed);
      std::vector<uint32_t> order(n);
      std::iota(order.begin(), order.end(), 0u);
      for (size_t i = n; i > 1; --i) std::swap(order[i - 1], order[random.next() % i]);
      std::vector<double> h(n * (n + 1) / 2), got;
      for (double& x : h) x = random.uniform();
      got = h;
      permute_packed(got, order);
      for (size_t r = 0; r < n; ++r)
        for (size_t c = 0; c <= r; ++c) {
          const size_t a = std::max(order[r], order[c]), b = std::min(order[r], order[c]);
          ASSERT_EQ(got[r * (r + 1) / 2 + c], h[a * (a + 1) / 2 + b]) << n << ": " << r << ", " << c;
        }
    }
}

}  // namespace
}  // namespace nibble
