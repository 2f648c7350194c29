#include "pipeline/folds.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/half.h"
#include "pipeline/row_slices.h"

namespace nibble {
namespace {

// Rows of a linear that an equalizer gets to see: about 16 MB of floats, evenly spaced. A trainer sees all.
constexpr size_t kSampleElements = size_t{4} << 20, kAllElements = std::numeric_limits<size_t>::max();

float rounded_to(DType dtype, float value) {
  if (dtype == DType::kBF16) return bf16_to_f32(f32_to_bf16(value));
  if (dtype == DType::kF16) return f16_to_f32(f32_to_f16(value));
  return value;
}

bool quantized(const QuantizePlan& plan, const std::string& tensor) {
  const PlannedTensor* planned = plan.find(tensor);
  return planned && planned->action == PlannedTensor::Action::kQuantize;
}

struct Sample {
  std::vector<float> values;
  size_t rows = 0, cols = 0;
};

Sample sample_rows(const PlannedTensor& planned, const Folds& folds, size_t elements) {
  const StoredTensor& tensor = *planned.source;
  Sample sample{{}, tensor.rows(), tensor.cols()};
  const size_t step = std::max<size_t>(1, tensor.rows() * tensor.cols() / elements);
  sample.rows = (tensor.rows() + step - 1) / step;
  sample.values.resize(sample.rows * sample.cols);
  for (size_t i = 0; i < sample.rows; ++i) {
    const std::vector<float> row = read_finite(tensor, i * step, i * step + 1);
    float* out = sample.values.data() + i * sample.cols;
    std::copy(row.begin(), row.end(), out);
    folds.apply(planned.name, i * step, matrix(out, 1, sample.cols));
  }
  return sample;
}

// The statistics of x / s.
void divide(InputStats& stats, const std::vector<float>& s) {
  for (size_t r = 0; r < stats.cols; ++r) {
    stats.mean_abs[r] /= s[r];
    stats.max_abs[r] /= s[r];
    stats.mean_square[r] /= s[r] * s[r];
    if (stats.gram.empty()) continue;
    double* row = stats.gram.data() + r * (r + 1) / 2;
    for (size_t c = 0; c <= r; ++c) row[c] /= static_cast<double>(s[r]) * static_cast<double>(s[c]);
  }
}

// Columns that one element makes share one factor: their geometric mean.
void share(const FoldTarget& target, size_t elements, std::vector<float>& scales) {
  std::vector<double> sums(elements);
  std::vector<size_t> counts(elements);
  for (size_t c = 0; c < scales.size(); ++c) {
    sums[target.producer[c]] += std::log(static_cast<double>(scales[c]));
    ++counts[target.producer[c]];
  }
  for (size_t c = 0; c < scales.size(); ++c) {
    const size_t e = target.producer[c];
    if (counts[e] > 1) scales[c] = static_cast<float>(std::exp(sums[e] / static_cast<double>(counts[e])));
  }
}

// As preparing_chain(), but null too where nothing can take a factor.
const AlgorithmChain* folding_chain(const BlockStage& stage, const QuantizePlan& plan) {
  if (stage.fold.empty() || (stage.fold.linear && !quantized(plan, stage.fold.tensor))) return nullptr;
  return preparing_chain(stage, plan);
}

bool trains(const AlgorithmChain* chain, const Trainer* trainer) {
  return chain && std::any_of(chain->trainers().begin(), chain->trainers().end(),
                              [&](const auto& own) { return own.get() == trainer; });
}

// Each once, in the order of the stages.
std::vector<const Trainer*> trainers_of(const Block& block, const QuantizePlan& plan) {
  std::vector<const Trainer*> trainers;
  for (const BlockStage& stage : block.stages())
    if (const AlgorithmChain* chain = folding_chain(stage, plan))
      for (const auto& trainer : chain->trainers())
        if (std::find(trainers.begin(), trainers.end(), trainer.get()) == trainers.end())
          trainers.push_back(trainer.get());
  return trainers;
}

}  // namespace

size_t documents_to_train(const Block& block, const QuantizePlan& plan) {
  size_t count = 0;
  for (const Trainer* trainer : trainers_of(block, plan)) count = std::max(count, trainer->documents());
  return count;
}

const AlgorithmChain* preparing_chain(const BlockStage& stage, const QuantizePlan& plan) {
  const AlgorithmChain* chain = nullptr;
  for (const std::string& linear : stage.linears) {
    if (!quantized(plan, linear)) return nullptr;
    const AlgorithmChain* own = plan.algorithms.find(plan.find(linear)->algorithm)->second.get();
    if (!own->prepares() || (chain && chain != own)) return nullptr;
    chain = own;
  }
  return chain;
}

void Folds::apply(const std::string& tensor, size_t first_row, MatrixView<float> rows) const {
  const auto found = factors_.find(tensor);
  if (found == factors_.end()) return;
  const Factors& factors = found->second;
  for (size_t r = 0; r < rows.rows; ++r) {
    const float of_row = factors.rows.empty() ? 1.0f : factors.rows[first_row + r];
    for (size_t c = 0; c < rows.cols; ++c) rows.row(r)[c] *= factors.cols.empty() ? of_row : of_row * factors.cols[c];
  }
}

std::span<const float> Folds::column_factors(const std::string& tensor) const {
  const auto found = factors_.find(tensor);
  return found == factors_.end() ? std::span<const float>() : std::span<const float>(found->second.cols);
}

void Folds::choose(Block& block, const QuantizePlan& plan, std::vector<InputStats>& stats, bool keep_grams,
                   std::map<std::string, std::vector<float>, std::less<>>& vectors) {
  for (size_t s = 0; s < block.stages().size(); ++s) {
    const BlockStage& stage = block.stages()[s];
    const AlgorithmChain* chain = folding_chain(stage, plan);
    if (!chain) continue;
    for (const auto& equalizer : chain->equalizers()) {
      const bool keep = equalizer != chain->equalizers().back() || keep_grams;
      std::vector<float> scales = chosen(*equalizer, stage, plan, stats[s], keep);
      fold(block, plan, stage, scales, vectors);
      divide(stats[s], scales);
    }
  }
}

std::vector<float> Folds::choose_inputs(const BlockStage& stage, const QuantizePlan& plan, InputStats& stats,
                                        DType dtype, bool keep_gram) {
  const AlgorithmChain* chain = preparing_chain(stage, plan);
  if (!chain) return {};
  std::vector<float> factors(stage.cols, 1.0f);
  const auto take = [&](std::vector<float> scales) {
    for (size_t c = 0; c < scales.size(); ++c) {
      const float factor = rounded_to(dtype, factors[c] / scales[c]);
      const bool usable = factor > 0 && std::isfinite(factor) && std::isfinite(1 / factor);
      scales[c] = usable ? factors[c] / factor : 1.0f;
      if (usable) factors[c] = factor;
    }
    scale_columns(stage, scales);
    divide(stats, scales);
  };
  size_t left = chain->equalizers().size() + chain->trainers().size();
  const auto keep = [&] { return --left > 0 || keep_gram; };
  for (const auto& equalizer : chain->equalizers()) take(chosen(*equalizer, stage, plan, stats, keep()));
  for (const auto& trainer : chain->trainers())
    take(chosen([&](const EqualizerInput& input) { return trainer->layer_scales(input); }, /*factored=*/true, stage,
                plan, stats, keep()));
  return factors;
}

std::vector<float> Folds::chosen(const Equalizer& equalizer, const BlockStage& stage, const QuantizePlan& plan,
                                 InputStats& stats, bool keep_gram) const {
  return chosen([&](const EqualizerInput& input) { return equalizer.scales(input); }, equalizer.needs_factor(), stage,
                plan, stats, keep_gram);
}

std::vector<float> Folds::chosen(const std::function<std::vector<float>(const EqualizerInput&)>& choose, bool factored,
                                 const BlockStage& stage, const QuantizePlan& plan, InputStats& stats,
                                 bool keep_gram) const {
  std::vector<Sample> samples;
  std::vector<MatrixView<const float>> weights;
  weights.reserve(stage.linears.size());
  std::vector<QuantSpec> specs;
  for (const std::string& linear : stage.linears) {
    samples.push_back(sample_rows(*plan.find(linear), *this, kSampleElements));
    specs.push_back(*plan.find(linear)->spec);
  }
  for (const Sample& sample : samples)
    weights.push_back(matrix<const float>(sample.values.data(), sample.rows, sample.cols));
  InputFactor factor;
  if (factored) {
    InputStats copy;
    copy.cols = stats.cols;
    copy.tokens = stats.tokens;
    copy.mean_square = stats.mean_square;
    copy.gram = keep_gram ? stats.gram : std::move(stats.gram);
    factor = factor_inputs(std::move(copy), {});
  }
  return choose({weights, specs, stats, factored ? &factor : nullptr});
}

void Folds::scale_columns(const BlockStage& stage, const std::vector<float>& scales) {
  for (const std::string& linear : stage.linears) {
    Factors& factors = factors_[linear];
    if (factors.cols.empty()) factors.cols.assign(scales.size(), 1.0f);
    for (size_t c = 0; c < scales.size(); ++c) factors.cols[c] *= scales[c];
  }
}

void Folds::train(Block& block, const QuantizePlan& plan, std::span<const MatrixView<const float>> documents,
                  std::vector<InputStats>& stats, std::map<std::string, std::vector<float>, std::less<>>& vectors) {
  const std::vector<BlockStage>& stages = block.stages();
  const std::unique_ptr<BlockGradient> gradient = block.gradient();
  if (!gradient) return;
  for (const Trainer* trainer : trainers_of(block, plan)) {
    std::vector<std::vector<Sample>> samples(stages.size());
    BlockGradient::Weights weights(stages.size());
    std::vector<std::vector<const QuantSpec*>> specs(stages.size());
    std::vector<bool> scalable;
    for (size_t s = 0; s < stages.size(); ++s) {
      for (const std::string& linear : stages[s].linears) {
        const PlannedTensor& planned = *plan.find(linear);
        samples[s].push_back(sample_rows(planned, *this, kAllElements));
        Sample& sample = samples[s].back();
        weights[s].push_back(matrix<const float>(sample.values.data(), sample.rows, sample.cols));
        specs[s].push_back(quantized(plan, linear) ? &*planned.spec : nullptr);
      }
      scalable.push_back(trains(folding_chain(stages[s], plan), trainer));
    }
    std::vector<std::vector<float>> scales =
        trainer->scales({*gradient, stages, weights, specs, scalable,
                         documents.first(std::min(documents.size(), trainer->documents()))});
    for (size_t s = 0; s < stages.size(); ++s) {
      if (!scalable[s]) continue;
      fold(block, plan, stages[s], scales[s], vectors);
      divide(stats[s], scales[s]);
    }
  }
}

void Folds::fold(Block& block, const QuantizePlan& plan, const BlockStage& stage, std::vector<float>& scales,
                 std::map<std::string, std::vector<float>, std::less<>>& vectors) {
  const FoldTarget& target = stage.fold;
  const PlannedTensor& producer = *plan.find(target.tensor);
  share(target, producer.source->rows(), scales);
  if (target.linear) {
    Factors& factors = factors_[target.tensor];
    if (factors.rows.empty()) factors.rows.assign(producer.source->rows(), 1.0f);
    std::vector<float> divisor(factors.rows.size(), 1.0f);
    for (size_t c = 0; c < scales.size(); ++c) divisor[target.producer[c]] = scales[c];
    for (size_t r = 0; r < divisor.size(); ++r) factors.rows[r] /= divisor[r];
    if (!target.bias.empty()) {
      const std::span<float> bias = block.vector(target.bias);
      for (size_t r = 0; r < bias.size(); ++r) bias[r] /= divisor[r];
      vectors[target.bias].assign(bias.begin(), bias.end());
    }
  } else {
    const std::span<float> norm = block.vector(target.tensor);
    std::vector<float> stored(norm.begin(), norm.end());
    for (size_t c = 0; c < scales.size(); ++c) {
      const uint32_t e = target.producer[c];
      stored[e] = rounded_to(producer.dtype, norm[e] / scales[c]);
      // What the stored norm really divides by; a norm of 0, or one that would vanish, stays as it is.
      if (stored[e] == 0 || !std::isfinite(stored[e])) stored[e] = norm[e];
      scales[c] = stored[e] == norm[e] ? 1.0f : norm[e] / stored[e];
    }
    std::copy(stored.begin(), stored.end(), norm.begin());
    vectors[target.tensor] = std::move(stored);
  }
  scale_columns(stage, scales);
}

}  // namespace nibble
