#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "algo/algorithm.h"
#include "algo/group_scale.h"
#include "core/test_sanitized.h"
#include "quant/sample_inputs.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using namespace testing_support;
using testing::HasSubstr;

using Doubles = std::vector<double>;

std::vector<float> heavy_tailed(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> w(n);
  for (float& x : w) {
    const double u = 2 * random.uniform() - 1;
    x = static_cast<float>(0.02 * u / (1.05 - std::abs(u)));
  }
  return w;
}

Square inverse(Square a) {
  const size_t n = a.size();
  Square b(n, Doubles(n));
  for (size_t i = 0; i < n; ++i) b[i][i] = 1;
  for (size_t i = 0; i < n; ++i) {
    const double pivot = a[i][i];
    for (size_t j = 0; j < n; ++j) a[i][j] /= pivot, b[i][j] /= pivot;
    for (size_t r = 0; r < n; ++r) {
      if (r == i) continue;
      const double factor = a[r][i];
      for (size_t j = 0; j < n; ++j) a[r][j] -= factor * a[i][j], b[r][j] -= factor * b[i][j];
    }
  }
  return b;
}

// U upper triangular, U^T U = a.
Square upper_cholesky(const Square& a) {
  const size_t n = a.size();
  Square u(n, Doubles(n));
  for (size_t i = 0; i < n; ++i)
    for (size_t j = i; j < n; ++j) {
      double sum = a[i][j];
      for (size_t k = 0; k < i; ++k) sum -= u[k][i] * u[k][j];
      u[i][j] = i == j ? std::sqrt(sum) : sum / u[i][i];
    }
  return u;
}

struct Problem {
  std::vector<float> w;
  size_t rows;
  InputStats stats;
  Square h;
  std::pair<float, float> range;
  mutable std::map<std::pair<std::vector<uint32_t>, double>, Square>
      factors;  // of damped_factor: slow where nothing is optimised

  Problem(size_t rows_, size_t cols, uint64_t seed, size_t rank = 0)
      : w(heavy_tailed(rows_ * cols, seed)),
        rows(rows_),
        stats(random_inputs(cols, rank == 0 ? 2 * cols : rank, seed)) {
    update();
  }
  void update() {
    h = full_gram(stats);
    factors.clear();
    const auto [lo, hi] = std::minmax_element(w.begin(), w.end());
    range = {*lo, *hi};
  }
  size_t cols() const { return stats.cols; }

  // The Cholesky factor of the inverse of h, damped, with its columns in `order`.
  const Square& damped_factor(const std::vector<uint32_t>& order, double percdamp) const {
    Square& u = factors[{order, percdamp}];
    if (!u.empty()) return u;
    const size_t n = cols();
    Square damped(n, Doubles(n));
    double mean = 0;
    for (size_t i = 0; i < n; ++i) mean += h[i][i] / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j) {
        damped[i][j] = h[order[i]][order[j]];
        if (i == j && damped[i][j] == 0) damped[i][j] = 1;
        if (i == j) damped[i][j] += percdamp * mean;
      }
    return u = upper_cholesky(inverse(damped));
  }

  // Codes stay as they were rounded unless `settings` ask for sweeps.
  QuantizedMatrix run(std::string_view name, const QuantSpec& spec, AlgorithmSettings settings = {},
                      const QuantizedMatrix* start = nullptr) const {
    if (name == "gptq") settings.emplace("sweeps", 0);
    const auto algorithm = make_algorithm(name, settings);
    InputStats copy = stats;
    const InputFactor factor = factor_inputs(std::move(copy), algorithm->factor_options(spec));
    return algorithm->quantize({matrix(w.data(), rows, cols()), spec, range, &factor, start});
  }
  // tr(D H D^T) by rows.
  Doubles errors(const QuantizedMatrix& q) const {
    const auto back = values_of(q);
    Doubles out;
    for (size_t r = 0; r < rows; ++r) {
      Doubles d(cols());
      for (size_t c = 0; c < cols(); ++c) d[c] = double{w[r * cols() + c]} - double{back[r * cols() + c]};
      out.push_back(quadratic(h, d));
    }
    return out;
  }
};

double total(const Doubles& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

// The algorithm as its paper has it, in double: columns in `order`, errors carried on through the Cholesky factor of
// the inverse; `q` gives the grids, and each group's is fitted anew when its first column comes where `fit` says so.
std::vector<uint8_t> textbook(const Problem& p, const QuantizedMatrix& q, const std::vector<uint32_t>& order,
                              double percdamp, bool fit = false, bool feedback = true, double alpha = 0) {
  const QuantSpec& spec = q.spec;
  const size_t n = p.cols(), groups = spec.groups(n), size = spec.group_size(n);
  const Square& u = p.damped_factor(order, percdamp);
  // P = alpha triu(D U^T, 1) U of GPTAQ.
  Square ahead(n, Doubles(n));
  for (size_t i = 0; alpha != 0 && i < n; ++i)
    for (size_t k = i + 1; k < n; ++k) {
      double sum = 0;
      for (size_t j = 0; j < n; ++j) sum += double{p.stats.cross[order[i] * n + order[j]]} * u[k][j];
      for (size_t j = k; j < n; ++j) ahead[i][j] += alpha * sum * u[k][j];
    }
  std::vector<uint8_t> codes(p.w.size());
  for (size_t r = 0; r < p.rows; ++r) {
    Doubles w(n);
    for (size_t i = 0; i < n; ++i) w[i] = p.h[order[i]][order[i]] == 0 ? 0.0 : double{p.w[r * n + order[i]]};
    const Doubles original = w;
    GroupScale map;
    for (size_t i = 0; i < n; ++i) {
      const size_t column = order[i], g = r * groups + column / size;
      if (!fit) {
        map.scale = q.scales[spec.per_tensor ? 0 : g];
        if (!q.zeros.empty()) map.zero = q.zeros[spec.per_tensor ? 0 : g];
      } else if (column % size == 0) {
        std::vector<float> current(w.begin() + static_cast<ptrdiff_t>(i),
                                   w.begin() + static_cast<ptrdiff_t>(std::min(n, i + size)));
        map = fit_group(spec, current, 1.0f);
      }
      const auto weight = static_cast<float>(w[i]);
      uint8_t& code = codes[r * n + column];
      double value = 0;
      if (spec.mins) {
        const double scale = double{q.scales[g]}, min = double{q.mins[g]};
        code =
            static_cast<uint8_t>(std::clamp(std::nearbyint((w[i] - min) / scale), 0.0, std::pow(2.0, spec.bits) - 1));
        value = scale * code + min;
      } else {
        encode_group(spec, map, std::span(&weight, 1), &code);
        value = double{map.scale} * double{code_value(spec, map, code)};
      }
      const double error = p.h[column][column] == 0 || !feedback ? 0 : (w[i] - value) / u[i][i];
      for (size_t j = i; j < n; ++j) w[j] -= error * u[i][j] - original[i] * ahead[i][j];
    }
  }
  return codes;
}

// Row by row what has the smaller error: that, or the nearest codes.
std::vector<uint8_t> expected(const Problem& p, const QuantizedMatrix& q, const std::vector<uint32_t>& order,
                              double percdamp) {
  QuantizedMatrix fed = q, nearest = q;
  fed.codes = textbook(p, q, order, percdamp);
  nearest.codes = textbook(p, q, order, percdamp, false, false);
  const Doubles a = p.errors(fed), b = p.errors(nearest);
  const auto cols = static_cast<ptrdiff_t>(p.cols());
  for (size_t r = 0; r < p.rows; ++r) {
    const auto at = static_cast<ptrdiff_t>(r) * cols;
    if (b[r] <= a[r]) std::copy_n(nearest.codes.begin() + at, cols, fed.codes.begin() + at);
  }
  return fed.codes;
}

std::vector<uint32_t> falling(const Problem& p) {
  std::vector<uint32_t> order(p.cols());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return p.h[a][a] > p.h[b][b]; });
  return order;
}

const AlgorithmSettings kPlain = {{"actorder", 0}, {"refit", 0}};

std::vector<QuantSpec> some_specs() {
  std::vector<QuantSpec> specs;
  for (const size_t group : {size_t{16}, size_t{23}, QuantSpec::kWholeRow}) {
    for (int bits = 1; bits <= 8; ++bits) {
      specs.push_back({.bits = bits, .group = group});
      specs.push_back({.bits = bits, .group = group, .symmetric = false, .scale_dtype = DType::kF16});
      specs.push_back({.bits = bits, .group = group, .symmetric = false, .mins = true});
    }
    specs.push_back({.bits = 4, .group = group, .full_range = true, .scale_dtype = DType::kBF16});
    specs.push_back({.bits = 4, .group = group, .grid = Grid::kNF4});
    specs.push_back({.bits = 4, .group = group, .grid = Grid::kFP4});
    specs.push_back({.bits = 8, .group = group, .grid = Grid::kFP8});
  }
  specs.push_back({.bits = 4, .group = QuantSpec::kWholeRow, .per_tensor = true});
  specs.push_back({.bits = 4, .group = QuantSpec::kWholeRow, .per_tensor = true, .symmetric = false});
  return specs;
}

TEST(Gptq, RoundsAsTheTextbook) {
  const Problem p(5, 70, 3);
  std::vector<uint32_t> natural(p.cols());
  std::iota(natural.begin(), natural.end(), 0u);
  for (const QuantSpec& spec : some_specs()) {
    for (const bool ordered : {false, true}) {
      const auto q = p.run("gptq", spec, {{"actorder", ordered}, {"refit", 0}});
      EXPECT_NO_THROW(validate(q));
      EXPECT_EQ(q.spec, spec);
      EXPECT_EQ(q.codes, expected(p, q, ordered ? falling(p) : natural, 0.01)) << describe(spec) << ordered;
    }
  }
}

TEST(Gptq, RoundsAsTheTextbookWithEachOption) {
  const Problem p(40, 70, 2);  // more rows than lanes
  const QuantSpec spec{.bits = 3, .group = 16, .symmetric = false};
  const auto order = falling(p);
  for (const double damp : {0.0, 0.1}) {
    const auto q = p.run("gptq", spec, {{"percdamp", damp}, {"refit", 0}});
    EXPECT_EQ(q.codes, expected(p, q, order, damp)) << damp;
  }
  for (const double mse : {0.0, 1.0, 2.0}) {
    const auto q = p.run("gptq", spec, {{"mse", mse}, {"refit", 0}});
    EXPECT_EQ(q.codes, expected(p, q, order, 0.01)) << mse;
  }
  for (const double block : {1.0, 8.0, 13.0, 1000.0})
    EXPECT_TRUE(same(p.run("gptq", spec, {{"block_size", block}}), p.run("gptq", spec))) << block;

  std::vector<uint32_t> natural(p.cols()), grouped;
  std::iota(natural.begin(), natural.end(), 0u);
  InputStats copy = p.stats;
  grouped = factor_inputs(std::move(copy), {.order = ColumnOrder::kGroupAware, .group = 16}).order;
  const auto gar = p.run("gptq", spec, {{"gar", 1}, {"refit", 0}});
  EXPECT_EQ(gar.codes, expected(p, gar, grouped, 0.01));

  const auto range = p.run("gptq", spec, {{"actorder", 0}, {"mse", 0}, {"refit", 0}});
  EXPECT_EQ(range.scales, p.run("rtn", spec).scales);
  const auto dynamic = p.run("gptq", spec, {{"actorder", 0}, {"mse", 0}, {"refit", 0}, {"static_groups", 0}});
  const auto want = textbook(p, dynamic, natural, 0.01, true);
  const auto nearest = p.run("rtn", spec).codes;
  for (size_t r = 0; r < 40; ++r) {
    const auto row_of = [&](const std::vector<uint8_t>& codes) {
      return std::vector(&codes[70 * r], &codes[70 * r] + 70);
    };
    EXPECT_EQ(row_of(dynamic.codes), r == 38 ? row_of(nearest) : row_of(want)) << r;  // which was better in one row
  }
  EXPECT_NE(dynamic.scales, range.scales);
}

// GPTAQ's term: what is rounded has the inputs' difference to the float model's taken into account.
TEST(Gptq, AsymmetricTermIsThatOfTheFormulae) {
  Problem p(5, 70, 4);
  Random random(8);
  p.stats.cross.resize(p.cols() * p.cols());
  for (float& d : p.stats.cross) d = static_cast<float>(random.uniform() - 0.5) * 0.05f;
  std::vector<uint32_t> natural(p.cols());
  std::iota(natural.begin(), natural.end(), 0u);
  const QuantSpec spec{.bits = 8, .group = 16, .symmetric = false};  // feedback wins in every row
  for (const bool ordered : {false, true})
    for (const double alpha : {0.25, 1.0}) {
      const AlgorithmSettings settings = {{"actorder", ordered}, {"refit", 0}, {"alpha", alpha}};
      const auto q = p.run("gptq", spec, settings);
      EXPECT_EQ(q.codes, textbook(p, q, ordered ? falling(p) : natural, 0.01, false, true, alpha)) << alpha << ordered;
      EXPECT_NE(q.codes, textbook(p, q, ordered ? falling(p) : natural, 0.01)) << alpha << ordered;
    }
  // Without such statistics there is no term.
  const auto plain = p.run("gptq", spec);
  p.stats.cross.clear();
  EXPECT_TRUE(same(p.run("gptq", spec, {{"alpha", 0.25}}), plain));
}

TEST(Gptq, NormIsThePowerOfTheGridsErrors) {
  const Problem p(3, 48, 6);
  const QuantSpec spec{.bits = 3, .group = 16, .symmetric = false};
  const auto error_of = [](std::span<const float> w, double scale, double zero, double norm) {
    double error = 0;
    for (const float x : w) {
      const double code = std::clamp(std::nearbyint(double{x} / scale) + zero, 0.0, 7.0);
      error += std::pow(std::abs(double{x} - scale * (code - zero)), norm);
    }
    return error;
  };
  const auto squares = p.run("gptq", spec, {{"mse", 1}, {"refit", 0}});
  for (const double norm : {0.7, 2.4}) {
    const auto q = p.run("gptq", spec, {{"mse", 1}, {"norm", norm}, {"refit", 0}});
    bool better = false;  // than the grid of least squares, somewhere
    for (size_t g = 0; g < q.scales.size(); ++g) {
      const std::span<const float> w(&p.w[16 * g], 16);
      const auto [lo, hi] = std::minmax_element(w.begin(), w.end());
      double least = 1e300;
      for (int i = 0; i < 80; ++i) {
        const double shrink = 1 - 0.01 * i, low = std::min(0.0, double{*lo}) * shrink,
                     scale = (std::max(0.0, double{*hi}) * shrink - low) / 7;
        least = std::min(least, error_of(w, scale, std::nearbyint(-low / scale), norm));
      }
      const double error = error_of(w, double{q.scales[g]}, static_cast<double>(q.zeros[g]), norm);
      EXPECT_NEAR(error, least, 1e-4 * least) << norm << " " << g;
      better |= error < 0.999 * error_of(w, double{squares.scales[g]}, static_cast<double>(squares.zeros[g]), norm);
    }
    EXPECT_TRUE(better) << norm;
  }
}

TEST(Gptq, RefusesDynamicGroupsInActOrder) {
  EXPECT_THAT(message_of([] { make_algorithm("gptq", {{"static_groups", 0}}); }), HasSubstr("gptq.actorder=0"));
  EXPECT_NO_THROW(make_algorithm("gptq", {{"static_groups", 0}, {"gar", 1}}));
}

TEST(Gptq, IsNeverWorseThanNearestOnTheSameGrid) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const Problem p(6, 48, seed, seed % 2 == 0 ? 12 : 0);
    for (const QuantSpec& spec : some_specs()) {
      const auto nearest = p.run("rtn", spec.mins ? QuantSpec{.bits = spec.bits, .group = spec.group} : spec);
      const auto fed = p.run("gptq", nearest.spec, {{"refit", 0}}, &nearest);
      EXPECT_EQ(fed.scales, nearest.scales);
      const Doubles a = p.errors(fed), b = p.errors(nearest);
      for (size_t r = 0; r < p.rows; ++r) EXPECT_LE(a[r], b[r] * (1 + 1e-6)) << describe(spec) << " seed " << seed;
    }
  }
}

TEST(Gptq, RefitNeverRaisesARowsError) {
  for (uint64_t seed = kSanitized ? 2 : 1; seed <= 3; ++seed) {
    const Problem p(kSanitized ? 20 : 40, 70, seed, seed == 3 ? 20 : 0);  // more rows than lanes
    for (const QuantSpec& spec : some_specs()) {
      if (spec.per_tensor) continue;
      const auto before = p.run("gptq", spec, {{"refit", 0}}), after = p.run("gptq", spec);
      EXPECT_NO_THROW(validate(after));
      const Doubles a = p.errors(before), b = p.errors(after);
      for (size_t r = 0; r < p.rows; ++r) ASSERT_LE(b[r], a[r] * (1 + 1e-6)) << describe(spec) << " row " << r;
      if (spec.bits <= 4) {
        EXPECT_LT(total(b), total(a)) << describe(spec);
      }
      for (const float scale : after.scales) EXPECT_EQ(scale, storable_scale(scale, spec.scale_dtype));
    }
  }
}

// Normal equations solved in double, without rounding: what the refit should reach.
TEST(Gptq, RefitFindsTheLeastSquaresScales) {
  const Problem p(3, 64, 5);
  const QuantSpec spec{.bits = 3, .group = 16};
  const auto q = p.run("gptq", spec);
  const size_t groups = 4;
  for (size_t r = 0; r < p.rows; ++r) {
    // At the minimum the gradient b_g = d H u_g^T vanishes.
    const auto back = values_of(q);
    Doubles d(64), hd(64);
    for (size_t c = 0; c < 64; ++c) d[c] = double{p.w[r * 64 + c]} - double{back[r * 64 + c]};
    for (size_t i = 0; i < 64; ++i)
      for (size_t j = 0; j < 64; ++j) hd[i] += p.h[i][j] * d[j];
    for (size_t g = 0; g < groups; ++g) {
      double gradient = 0, magnitude = 0;
      for (size_t c = 16 * g; c < 16 * (g + 1); ++c) {
        const double term = hd[c] * (q.codes[r * 64 + c] - 4.0);
        gradient += term, magnitude += std::abs(term);
      }
      EXPECT_NEAR(gradient, 0, 3e-3 * magnitude) << r << " " << g;
    }
  }
}

TEST(Gptq, MorePassesNeverRaiseARowsError) {
  const Problem p(33, 64, 6);
  for (const bool mins : {false, true}) {
    const QuantSpec spec{.bits = 2, .group = 16, .symmetric = !mins, .mins = mins};
    const Doubles one = p.errors(p.run("gptq", spec)), four = p.errors(p.run("gptq", spec, {{"passes", 4}}));
    for (size_t r = 0; r < p.rows; ++r) EXPECT_LE(four[r], one[r] * (1 + 1e-6));
    EXPECT_LT(total(four), 0.98 * total(one));
  }
}

TEST(Gptq, SweepsNeverRaiseARowsError) {
  for (const QuantSpec& spec : some_specs()) {
    const Problem p(33, 70, 13);
    const Doubles none = p.errors(p.run("gptq", spec)), three = p.errors(p.run("gptq", spec, {{"sweeps", 3}}));
    for (size_t r = 0; r < p.rows; ++r) ASSERT_LE(three[r], none[r] * (1 + 1e-6)) << describe(spec) << " row " << r;
    if (spec.bits <= 4 && spec.grid == Grid::kInt) {
      EXPECT_LT(total(three), total(none)) << describe(spec);
    }
  }
}

// When sweeps end, no other code in any single place has a smaller damped error.
TEST(Gptq, SweepsEndWhereNoSingleCodeIsWrong) {
  Problem p(8, 45, 14);
  const QuantSpec spec{.bits = 2, .group = 16, .symmetric = false};
  const auto q = p.run("gptq", spec, {{"sweeps", 50}, {"refit", 0}, {"percdamp", 0}});
  const Doubles found = p.errors(q);
  for (size_t i = 0; i < q.codes.size(); ++i)
    for (uint8_t code = 0; code < 4; ++code) {
      QuantizedMatrix other = q;
      other.codes[i] = code;
      ASSERT_GE(p.errors(other)[i / 45], found[i / 45] * (1 - 1e-5)) << i;
    }
}

TEST(Gptq, BeatsSearchAndRoundToNearest) {
  const Problem p(64, 128, 7);
  for (const int bits : {2, 3, 4}) {
    const QuantSpec spec{.bits = bits, .group = 32, .symmetric = bits != 2};
    const double gptq = total(p.errors(p.run("gptq", spec))), search = total(p.errors(p.run("search", spec))),
                 rtn = total(p.errors(p.run("rtn", spec)));
    EXPECT_LT(gptq, 0.7 * search);
    EXPECT_LT(search, rtn);
  }
}

TEST(Gptq, StartsFromTheGridOfTheAlgorithmBefore) {
  const Problem p(9, 50, 8);
  const QuantSpec spec{.bits = 4, .group = 16, .symmetric = false, .scale_dtype = DType::kF16, .mins = true};
  QuantizedMatrix start = random_matrix(spec, 9, 50, 1);
  for (float& scale : start.scales) scale = 0.004f * (1 + std::abs(scale));
  for (float& min : start.mins) min *= 0.02f;
  const auto q = p.run("gptq", spec, {{"refit", 0}}, &start);
  EXPECT_EQ(q.scales, start.scales);
  EXPECT_EQ(q.mins, start.mins);
  EXPECT_EQ(q.codes, textbook(p, start, falling(p), 0.01));
}

TEST(Gptq, RowsDoNotDependOnTheSlice) {
  const Problem p(70, 40, 9);
  for (const QuantSpec& spec :
       {QuantSpec{.bits = 3, .group = 16}, QuantSpec{.bits = 4, .group = 0, .grid = Grid::kNF4}}) {
    const auto algorithm = make_algorithm("gptq", {{"passes", 2}});
    InputStats copy = p.stats;
    const InputFactor factor = factor_inputs(std::move(copy), algorithm->factor_options(spec));
    const auto whole = algorithm->quantize({matrix(p.w.data(), 70, 40), spec, p.range, &factor});
    for (const auto& [begin, end] : {std::pair<size_t, size_t>{0, 1}, {1, 34}, {33, 70}}) {
      const auto part = algorithm->quantize({matrix(p.w.data() + begin * 40, end - begin, 40), spec, p.range, &factor});
      EXPECT_TRUE(same(part, rows_of(whole, begin, end)));
    }
  }
}

TEST(Gptq, DeadColumnsBecomeZeroAndDisturbNothing) {
  Problem p(4, 40, 10);
  for (const size_t dead : {size_t{3}, size_t{16}, size_t{39}}) {
    kill_column(p.stats, dead);
    for (size_t r = 0; r < 4; ++r) p.w[r * 40 + dead] = 1000;  // would ruin its group's grid
  }
  p.update();
  for (const QuantSpec& spec : {QuantSpec{.bits = 4, .group = 8}, QuantSpec{.bits = 4, .group = 8, .symmetric = false},
                                QuantSpec{.bits = 4, .group = 8, .grid = Grid::kNF4}}) {
    const auto q = p.run("gptq", spec, {{"refit", 0}});
    const auto back = values_of(q);
    for (const size_t dead : {size_t{3}, size_t{16}, size_t{39}})
      for (size_t r = 0; r < 4; ++r) EXPECT_EQ(back[r * 40 + dead], 0) << describe(spec);
    EXPECT_EQ(q.codes, expected(p, q, falling(p), 0.01)) << describe(spec);
    for (const float scale : q.scales) EXPECT_LT(std::abs(scale), 1.0f);
    EXPECT_LE(total(p.errors(p.run("gptq", spec))), total(p.errors(q)));
  }
}

TEST(Gptq, FallsBackToTheGridsWhereNothingCanBeFactored) {
  Problem p(4, 40, 11);
  p.stats.gram[1] = -1e9;  // no Gram matrix at all
  const QuantSpec spec{.bits = 4, .group = 8};
  EXPECT_TRUE(same(p.run("gptq", spec), p.run("search", spec)));
}

TEST(Gptq, SurvivesEverySpecAndTinyAndHugeWeights) {
  for (const float unit : {1e-30f, 1.0f, 1e15f}) {
    Problem p(3, 52, 12, 10);
    for (float& x : p.w) x *= unit;
    p.w[5] = 0;
    p.update();
    for (const QuantSpec& spec : every_spec()) {
      const auto q = p.run("gptq", spec);
      EXPECT_NO_THROW(validate(q)) << describe(spec) << " " << unit;
      for (const float x : values_of(q)) ASSERT_TRUE(std::isfinite(x)) << describe(spec) << " " << unit;
    }
  }
}

}  // namespace
}  // namespace nibble
