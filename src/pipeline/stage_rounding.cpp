#include "pipeline/stage_rounding.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/interrupt.h"
#include "core/threads.h"
#include "core/usage.h"
#include "kernels/kernels.h"
#include "pipeline/row_slices.h"
#include "quant/output_error.h"

namespace nibble {
namespace {

// Rows that algorithms work on side by side, and of which errors are summed up.
constexpr size_t kRows = 32;

// Units of kRows rows in a slice, which one thread rounds: what an algorithm prepares of the factor serves all of them.
// Few enough that all threads have something to do.
size_t slice_units(size_t rows) {
  constexpr size_t kMost = 4, kSlicesPerThread = 4;
  return std::clamp<size_t>(rows / (kRows * kSlicesPerThread * thread_count()), 1, kMost);
}

const PlannedTensor* to_round(const std::string& linear, const QuantizePlan& plan) {
  const PlannedTensor* planned = plan.find(linear);
  return planned && planned->action == PlannedTensor::Action::kQuantize ? planned : nullptr;
}

const AlgorithmChain& chain_of(const PlannedTensor& planned, const QuantizePlan& plan) {
  return *plan.algorithms.find(planned.algorithm)->second;
}

// Linears that want their inputs factored in the same way.
struct Task {
  FactorOptions options;
  bool factored = false;
  std::vector<const PlannedTensor*> linears;
};

std::vector<Task> tasks_of(const BlockStage& stage, const QuantizePlan& plan) {
  std::vector<Task> tasks;
  for (const std::string& linear : stage.linears) {
    const PlannedTensor* planned = to_round(linear, plan);
    if (!planned) continue;
    const AlgorithmChain& chain = chain_of(*planned, plan);
    const bool factored = chain.input_use() == InputUse::kFactor;
    const FactorOptions options = factored ? chain.factor_options(*planned->spec) : FactorOptions{};
    auto task = std::find_if(tasks.begin(), tasks.end(),
                             [&](const Task& t) { return t.factored == factored && t.options == options; });
    if (task == tasks.end()) task = tasks.insert(task, Task{options, factored, {}});
    task->linears.push_back(planned);
  }
  return tasks;
}

// Rounds one linear slice by slice. `inputs` of no columns: there are no calibration tokens.
class LinearRounding {
 public:
  LinearRounding(const PlannedTensor& planned, const QuantizePlan& plan, const Folds& folds, const InputFactor& inputs)
      : planned_(planned),
        chain_(chain_of(planned, plan)),
        folds_(folds),
        inputs_(inputs),
        builder_(*planned.spec, planned.source->rows(), planned.source->cols()),
        slice_rows_(kRows * slice_units(planned.source->rows())),
        measures_((planned.source->rows() + kRows - 1) / kRows),
        left_(slices()) {
    if (planned.spec->per_tensor) range_ = folded_range();
  }

  size_t slices() const { return (planned_.source->rows() + slice_rows_ - 1) / slice_rows_; }

  void round(size_t slice) {
    check_interrupted();
    const double start = wall_seconds();
    const StoredTensor& source = *planned_.source;
    const size_t begin = slice * slice_rows_, end = std::min(source.rows(), begin + slice_rows_);
    std::vector<float> weights = read_finite(source, begin, end);
    const MatrixView<float> view = matrix(weights.data(), end - begin, source.cols());
    folds_.apply(planned_.name, begin, view);
    const QuantizedMatrix quantized =
        chain_.quantize({view, *planned_.spec, range_, inputs_.cols == 0 ? nullptr : &inputs_});
    check_scales(quantized, begin);
    builder_.add(begin, quantized);
    std::vector<float> differences(weights.size());
    dequantize(quantized, matrix(differences.data(), view.rows, view.cols));
    for (size_t i = 0; i < weights.size(); ++i) differences[i] = weights[i] - differences[i];
    for (size_t row = 0; row < view.rows; row += kRows) {
      const size_t rows = std::min(kRows, view.rows - row);
      LayerMeasure& measure = measures_[(begin + row) / kRows];
      const auto part = [&](std::vector<float>& of) {
        return matrix<const float>(&of[row * view.cols], rows, view.cols);
      };
      measure.output_signal = output_error(inputs_, part(weights));
      measure.output_error = output_error(inputs_, part(differences));
      measure.signal = square(part(weights));
      measure.error = square(part(differences));
    }
    measures_[begin / kRows].seconds = wall_seconds() - start;
    // Pages of a transposed weight hold parts of all rows: they go while the next linear is rounded.
    if (left_.fetch_sub(1) == 1) source.release(0, source.rows());
  }

  void finish(FinishedBlock& block) {
    LayerMeasure total;
    for (const LayerMeasure& measure : measures_) {
      total.signal += measure.signal;
      total.error += measure.error;
      total.output_signal += measure.output_signal;
      total.output_error += measure.output_error;
      total.seconds += measure.seconds;
    }
    total.percdamp = inputs_.percdamp;
    if (chain_.input_use() == InputUse::kFactor && inputs_.factor.empty())
      total.fallback = "the inputs' Gram matrix is not positive definite: rounded without error feedback";
    block.measures[planned_.name] = total;
    block.weights[planned_.name] = builder_.finish();
  }

 private:
  // Of a dense matrix.
  static double square(MatrixView<const float> values) {
    double sum = 0;
    constexpr size_t kRun = 4096;  // floats added in float before they go to the double
    const size_t count = values.rows * values.cols;
    for (size_t i = 0; i < count; i += kRun) {
      const float* const run = values.data + i;
      sum += static_cast<double>(kernels::active().dot_f32(run, run, std::min(kRun, count - i)));
    }
    return sum;
  }

  std::pair<float, float> folded_range() const {
    std::pair<float, float> range{std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()};
    for (size_t begin = 0; begin < planned_.source->rows(); begin += slice_rows_) {
      std::vector<float> rows =
          read_finite(*planned_.source, begin, std::min(planned_.source->rows(), begin + slice_rows_));
      folds_.apply(planned_.name, begin,
                   matrix(rows.data(), rows.size() / planned_.source->cols(), planned_.source->cols()));
      const auto [lo, hi] = std::minmax_element(rows.begin(), rows.end());
      range = {std::min(range.first, *lo), std::max(range.second, *hi)};
    }
    return range;
  }

  void check_scales(const QuantizedMatrix& quantized, size_t first_row) const {
    if (const auto row = unstorable_scale(quantized))
      throw Error(ErrorKind::kUsage, cat(planned_.name, ": the scale of row ", first_row + *row,
                                         " does not fit F16; try --dtype bf16 or fp32"));
  }

  const PlannedTensor& planned_;
  const AlgorithmChain& chain_;
  const Folds& folds_;
  const InputFactor& inputs_;
  PackedMatrixBuilder builder_;
  std::pair<float, float> range_{};
  size_t slice_rows_;
  std::vector<LayerMeasure> measures_;  // of each kRows rows, so that sums have one order
  std::atomic<size_t> left_;            // slices to round
};

void run(const Task& task, const QuantizePlan& plan, const Folds& folds, const InputFactor& inputs,
         FinishedBlock& block) {
  // One linear after the other, but for those that would leave threads idle.
  const size_t enough = 8 * thread_count();
  std::vector<std::unique_ptr<LinearRounding>> linears;
  std::vector<std::pair<LinearRounding*, size_t>> slices;
  for (const PlannedTensor* planned : task.linears) {
    linears.push_back(std::make_unique<LinearRounding>(*planned, plan, folds, inputs));
    for (size_t i = 0; i < linears.back()->slices(); ++i) slices.emplace_back(linears.back().get(), i);
    if (slices.size() < enough && planned != task.linears.back()) continue;
    parallel_for(slices.size(), 1, [&](size_t first, size_t last) {
      for (size_t i = first; i < last; ++i) slices[i].first->round(slices[i].second);
    });
    for (const auto& linear : linears) linear->finish(block);
    linears.clear();
    slices.clear();
  }
}

}  // namespace

bool wants_gram(const BlockStage& stage, const QuantizePlan& plan) {
  return std::any_of(stage.linears.begin(), stage.linears.end(), [&](const std::string& linear) {
    const PlannedTensor* planned = to_round(linear, plan);
    return planned && chain_of(*planned, plan).input_use() == InputUse::kFactor;
  });
}

void round_stage(const BlockStage& stage, const QuantizePlan& plan, const Folds& folds, InputStats& stats,
                 FinishedBlock& block) {
  const std::vector<Task> tasks = tasks_of(stage, plan);
  const auto last = std::find_if(tasks.rbegin(), tasks.rend(), [](const Task& task) { return task.factored; });
  for (const Task& task : tasks) {
    InputStats own;
    own.cols = stats.cols;
    own.tokens = stats.tokens;
    own.mean_square = stats.mean_square;
    if (task.factored) own.gram = &task == &*last ? std::move(stats.gram) : stats.gram;
    if (task.options.alpha != 0) own.cross = stats.cross;
    run(task, plan, folds, stats.tokens == 0 ? InputFactor{} : factor_inputs(std::move(own), task.options), block);
  }
}

}  // namespace nibble
