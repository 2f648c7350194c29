#include <algorithm>
#include <cmath>
#include <vector>

#include "algo/algorithm.h"
#include "core/threads.h"

namespace nibble {
namespace {

constexpr AlgorithmOption kOptions[] = {
    {"iters", 16, 1, 1000, "rounds of evening out rows and columns; ends when the imbalance grows"},
};

// [rows, cols] of a tile, and the logarithms of what its rows and columns were divided by.
struct Tile {
  size_t rows, cols;
  std::vector<double> weights, values;
  std::vector<double> row_log, col_log;
  std::vector<double> row_spread, col_spread;  // standard deviations of `values`
};

double spread(double sum, double squares, size_t n) {
  const auto count = static_cast<double>(n);
  return n < 2 ? 0 : std::sqrt(std::max(0.0, (squares - sum * sum / count) / (count - 1)));
}

// Divides by the factors, finds the standard deviations, and returns the imbalance: the largest over the smallest.
double measure(Tile& tile, double unit) {
  std::vector<double> sums(tile.cols), squares(tile.cols);
  for (size_t r = 0; r < tile.rows; ++r) {
    double sum = 0, square = 0;
    for (size_t c = 0; c < tile.cols; ++c) {
      double& x = tile.values[r * tile.cols + c];
      x = tile.weights[r * tile.cols + c] / std::exp(tile.row_log[r] + tile.col_log[c]);
      sum += x, square += x * x;
      sums[c] += x, squares[c] += x * x;
    }
    tile.row_spread[r] = spread(sum, square, tile.cols);
  }
  for (size_t c = 0; c < tile.cols; ++c) tile.col_spread[c] = spread(sums[c], squares[c], tile.rows);
  double low = 1e300, high = 0;
  for (std::vector<double>* spreads : {&tile.row_spread, &tile.col_spread})
    for (double& x : *spreads) {
      x = std::clamp(x, 1e-3 * unit, 1e3 * unit);
      low = std::min(low, x);
      high = std::max(high, x);
    }
  return high / low;
}

void step(std::vector<double>& logs, const std::vector<double>& spreads, double target) {
  for (size_t i = 0; i < logs.size(); ++i)
    logs[i] = std::clamp(logs[i] + std::log(std::clamp(spreads[i] / target, 0.7, 2.0)), -0.3, 10.0);
}

// What the columns are divided by for rows and columns of nearly equal spread (logarithms, mean 0).
std::vector<double> even_out(Tile& tile, int iters) {
  std::vector<double> best(tile.cols);
  double sum = 0, squares = 0;
  for (double x : tile.weights) sum += x, squares += x * x;
  const double unit = spread(sum, squares, tile.weights.size());
  if (unit == 0) return best;
  double least = 1e300, target = 0;
  for (int i = 0; i < iters; ++i) {
    const double imbalance = measure(tile, unit);
    if (imbalance > least) break;
    least = imbalance;
    best = tile.col_log;
    if (i == 0)
      target = std::min(*std::min_element(tile.row_spread.begin(), tile.row_spread.end()),
                        *std::min_element(tile.col_spread.begin(), tile.col_spread.end()));
    step(tile.col_log, tile.col_spread, target);
    step(tile.row_log, tile.row_spread, target);
  }
  double mean = 0;
  for (double x : best) mean += x / static_cast<double>(best.size());
  for (double& x : best) x -= mean;
  return best;
}

// Sinkhorn-normalised quantization (Müller et al. 2025, arXiv 2509.22944): rows and columns of each group of columns
// are divided by factors that even out their standard deviations. The group's own scales take up the rows' factors; the
// columns', shared by the linears of an input, are folded into what makes it, so that no second scale is stored. The
// activations do not matter. Spreads are clamped relative to the tile's own, so that the unit of the weights does not.
class Sinq final : public Equalizer {
 public:
  explicit Sinq(const AlgorithmSettings& settings) : iters_(static_cast<int>(settings.find("iters")->second)) {}

  bool needs_inputs() const override { return false; }

  std::vector<float> scales(const EqualizerInput& input) const override {
    const size_t cols = input.stats.cols;
    std::vector<float> scales(cols, 1.0f);
    size_t rows = 0;
    for (const MatrixView<const float> w : input.weights) rows += w.rows;
    if (rows == 0 || cols == 0) return scales;
    const size_t size = std::min(cols, input.specs[0].group_size(cols));
    parallel_for(cols, size, [&](size_t begin, size_t end) {
      Tile tile{rows, end - begin, {}, {}, {}, {}, {}, {}};
      for (const MatrixView<const float> w : input.weights)
        for (size_t r = 0; r < w.rows; ++r) tile.weights.insert(tile.weights.end(), w.row(r) + begin, w.row(r) + end);
      tile.values.resize(tile.weights.size());
      tile.row_log.resize(rows), tile.row_spread.resize(rows);
      tile.col_log.resize(tile.cols), tile.col_spread.resize(tile.cols);
      const std::vector<double> logs = even_out(tile, iters_);
      for (size_t c = 0; c < tile.cols; ++c) scales[begin + c] = static_cast<float>(std::exp(-logs[c]));
    });
    return scales;
  }

 private:
  int iters_;
};

}  // namespace

extern const AlgorithmEntry sinq_algorithm;
const AlgorithmEntry sinq_algorithm = {
    .name = "sinq",
    .summary = "scaling of input columns that evens out the weights' spread; a rounding follows, else rtn",
    .options = kOptions,
    .make_equalizer = [](const AlgorithmSettings& settings) -> std::unique_ptr<Equalizer> {
      return std::make_unique<Sinq>(settings);
    },
};

}  // namespace nibble
