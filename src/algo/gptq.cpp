#include <algorithm>
#include <vector>

#include "algo/code_descent.h"
#include "algo/fit_grids.h"
#include "algo/lane_rows.h"
#include "algo/scale_refit.h"
#include "core/error.h"
#include "quant/lane_products.h"

namespace nibble {
namespace {

constexpr AlgorithmOption kOptions[] = {
    {"percdamp", 0.01, 0.0, 1.0, "added to the diagonal of the inputs' Gram matrix, as a fraction of its mean"},
    {"actorder", 1, 0, 1, "1: columns are rounded by falling mean square of their input; nothing of it is stored"},
    {"gar", 0, 0, 1, "1: group-aware order: groups by their largest mean square, then the columns within each"},
    {"static_groups", 1, 0, 1,
     "1: grids are fitted before anything is rounded; 0: each when its group's turn comes, to what is left of it "
     "(actorder 0 only)"},
    {"mse", 2, 0, 2, "grids 0: cover each group's range; 1: have the least error; 2: the least error, by mean square"},
    {"norm", 2, 0.5, 4,
     "with mse 1 or 2: the power of the error that grids are fitted for; other than 2, e.g. the 2.4 of GPTQ's first "
     "code, "
     "by shrinking the range step by step"},
    {"refit", 1, 0, 1, "1: scales (and mins) are fitted again to the finished codes"},
    {"passes", 1, 1, 20,
     "times that all is rounded, each time to the scales refitted after the last; the best is kept"},
    {"sweeps", 2, 0, 100,
     "then, this many times: each code becomes the best one while all others stay, and scales are refitted"},
    {"alpha", 0, 0, 1,
     "GPTAQ: how much of the difference to the float model's inputs is made up for, .25 in its paper's code; doubles "
     "the "
     "work and the activations kept"},
    {"block_size", 128, 1, 65536, "columns rounded in all rows before the next; a matter of speed only"},
};

constexpr double kLeastGain = 1e-5;  // below it is rounding error

// Rounds column after column, each time moving what is left of the weights to make up for the error in the outputs
// (Frantar et al. 2022, arXiv 2210.17323); see LaneRows. A row that this does
// not help, as happens at one bit, stays as it was: rounded to the nearest, or as the algorithm before left it. So do
// all where no damping makes H positive definite.
class Gptq final : public Algorithm {
 public:
  explicit Gptq(const AlgorithmSettings& settings) {
    const auto value = [&](std::string_view name) { return settings.find(name)->second; };
    percdamp_ = value("percdamp");
    alpha_ = value("alpha");
    order_ = value("gar") != 0        ? ColumnOrder::kGroupAware
             : value("actorder") != 0 ? ColumnOrder::kActOrder
                                      : ColumnOrder::kNatural;
    static_groups_ = value("static_groups") != 0;
    weights_ = static_cast<GridWeights>(static_cast<int>(value("mse")));
    fit_.norm = value("norm");
    refit_ = value("refit") != 0;
    passes_ = static_cast<int>(value("passes"));
    sweeps_ = static_cast<int>(value("sweeps"));
    block_size_ = static_cast<size_t>(value("block_size"));
    if (!static_groups_ && order_ == ColumnOrder::kActOrder)
      throw Error(
          ErrorKind::kUsage,
          "gptq.static_groups=0 fits a group's grid when its turn comes, but gptq.actorder=1 rounds its columns "
          "at different times; set gptq.actorder=0 (or gptq.gar=1, which keeps groups together)");
  }

  InputUse input_use() const override { return InputUse::kFactor; }
  bool needs_inputs() const override { return true; }
  FactorOptions factor_options(const QuantSpec& spec) const override {
    return {.order = order_, .group = spec.group, .percdamp = percdamp_, .alpha = alpha_};
  }

  QuantizedMatrix quantize(const Rounding& rounding) const override {
    if (rounding.inputs == nullptr || rounding.inputs->correction.empty()) return round(rounding);
    const std::vector<float> corrected = correct(rounding.weight, *rounding.inputs);
    Rounding other = rounding;
    other.weight = matrix(corrected.data(), rounding.weight.rows, rounding.weight.cols);
    return round(other);
  }

 private:
  // W (I + P) of InputFactor::correction.
  static std::vector<float> correct(MatrixView<const float> weight, const InputFactor& inputs) {
    const size_t cols = inputs.cols;
    std::vector<float> corrected(weight.rows * cols), x(cols * kRowLanes), y(x.size());
    for (size_t first = 0; first < weight.rows; first += kRowLanes) {
      const size_t count = std::min(kRowLanes, weight.rows - first);
      for (size_t i = 0; i < cols; ++i) {
        const uint32_t column = inputs.order[i];
        for (size_t lane = 0; lane < count; ++lane)
          x[i * kRowLanes + lane] = inputs.importance[column] == 0 ? 0.0f : weight.row(first + lane)[column];
      }
      multiply_lanes(inputs.correction.data(), cols, x.data(), y.data());
      for (size_t i = 0; i < cols; ++i)
        for (size_t lane = 0; lane < count; ++lane)
          corrected[(first + lane) * cols + inputs.order[i]] = y[i * kRowLanes + lane];
    }
    return corrected;
  }

  QuantizedMatrix round(const Rounding& rounding) const {
    QuantizedMatrix q = rounding.start != nullptr ? *rounding.start : fit_grids(rounding, weights_, fit_);
    if (rounding.inputs == nullptr || rounding.inputs->factor.empty()) return q;
    const LaneContext context(rounding, q);
    std::vector<LaneRows> blocks;
    for (size_t r = 0; r < q.rows; r += kRowLanes) blocks.emplace_back(context, q, r);
    std::vector<double> least;
    for (const LaneRows& rows : blocks)
      least.insert(least.end(), rows.error.begin(), rows.error.begin() + static_cast<ptrdiff_t>(rows.count));
    for (int pass = 0; pass < passes_; ++pass) {
      for (LaneRows& rows : blocks) rows.load_weights(context);
      if (pass == 0 && !static_groups_ && rounding.start == nullptr && !rounding.spec.per_tensor)
        fit_and_round(context, blocks);
      else
        round_columns(context, blocks);
      for (LaneRows& rows : blocks) rows.sum_errors(context);
      if (refit_ && !rounding.spec.per_tensor) refit_scales(context, blocks);
      keep_best(context, blocks, least, q);
    }
    if (sweeps_ == 0) return q;
    const CodeDescent descent(context);
    for (int sweep = 0; sweep < sweeps_; ++sweep) {
      for (LaneRows& rows : blocks) {
        if (sweep == 0) rows = LaneRows(context, q, rows.first);  // the best so far
        if (refit_ && sweep > 0) rows.measure(context);           // the scales have changed
        descent.sweep(rows);
        rows.sum_errors(context);
      }
      if (refit_ && !rounding.spec.per_tensor) refit_scales(context, blocks);
      keep_best(context, blocks, least, q);
    }
    return q;
  }

  void round_columns(const LaneContext& context, std::vector<LaneRows>& blocks) const {
    for (size_t begin = 0; begin < context.cols; begin += block_size_)
      for (LaneRows& rows : blocks) rows.round_columns(context, begin, std::min(context.cols, begin + block_size_));
  }

  // Group by group: its grids are fitted to what its weights have become.
  void fit_and_round(const LaneContext& context, std::vector<LaneRows>& blocks) const {
    const QuantSpec& spec = context.rounding.spec;
    GridFit fit(fit_);
    for (size_t begin = 0, end = 0; begin < context.cols; begin = end) {
      while (end < context.cols && context.group_at[end] == context.group_at[begin]) ++end;
      std::vector<float> w(end - begin), h(end - begin, 1.0f);
      std::vector<uint8_t> codes(end - begin);
      if (weights_ == GridWeights::kImportance)
        for (size_t i = begin; i < end; ++i) h[i - begin] = context.inputs.importance[context.inputs.order[i]];
      for (LaneRows& rows : blocks) {
        const std::vector<float> weights = rows.compensated(context, begin, end);
        for (size_t lane = 0; lane < rows.count; ++lane) {
          for (size_t i = 0; i < w.size(); ++i) w[i] = weights[i * kRowLanes + lane];
          const GroupGrid grid =
              fit_group_grid(spec, w, h, weights_ == GridWeights::kRange ? nullptr : &fit, codes.data());
          const size_t at = context.group_at[begin] * kRowLanes + lane;
          rows.scale[at] = grid.map.scale;
          rows.offset[at] = grid.min;
          if (!spec.symmetric) rows.zero[at] = static_cast<float>(grid.map.zero);
        }
        rows.round_columns(context, begin, end);
      }
    }
  }

  static void keep_best(const LaneContext& context, const std::vector<LaneRows>& blocks, std::vector<double>& least,
                        QuantizedMatrix& q) {
    for (const LaneRows& rows : blocks)
      for (size_t lane = 0; lane < rows.count; ++lane) {
        if (!(rows.error[lane] < (1 - kLeastGain) * least[rows.first + lane])) continue;
        least[rows.first + lane] = rows.error[lane];
        rows.store(context, lane, q);
      }
  }

  double percdamp_ = 0, alpha_ = 0;
  ColumnOrder order_ = ColumnOrder::kNatural;
  bool static_groups_ = true;
  GridWeights weights_ = GridWeights::kImportance;
  GridFitOptions fit_;
  bool refit_ = true;
  int passes_ = 1, sweeps_ = 2;
  size_t block_size_ = 1;
};

}  // namespace

extern const AlgorithmEntry gptq_algorithm;
const AlgorithmEntry gptq_algorithm = {
    .name = "gptq",
    .summary = "GPTQ on searched grids, scales refitted: each column's rounding error is made up for by the next ones",
    .options = kOptions,
    .make = [](const AlgorithmSettings& settings) -> std::unique_ptr<Algorithm> {
      return std::make_unique<Gptq>(settings);
    },
};

}  // namespace nibble
