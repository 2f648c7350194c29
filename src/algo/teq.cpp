#include <algorithm>
#include <cmath>
#include <vector>

#include "algo/adam.h"
#include "algo/algorithm.h"
#include "algo/column_training.h"
#include "algo/equalize.h"
#include "algo/scale_gradient.h"
#include "core/interrupt.h"
#include "core/threads.h"

namespace nibble {
namespace {

constexpr AlgorithmOption kOptions[] = {
    {"iters", 50, 0, 1e6, "steps of training of each block; each looks at one document"},
    {"lr", 0.01, 0, 1, "size of the first step, of the logarithms of the factors; falls to 0 in a straight line"},
    {"documents", 4, 1, 1e6, "how many of the calibration documents are trained on, in turn"},
    {"rows", 256, 1, 1e9, "on ONNX graphs that are no known decoder: how many rows of each linear are trained on"},
};

// The factors of a block and what rounding makes of its weights with them. Rows of a linear whose rows a later stage's
// factors divide are left alone: groups lie within rows, so that dividing a row does not change how it is rounded.
class Training {
 public:
  explicit Training(const TrainerInput& input) : input_(input), rtn_(make_algorithm("rtn", {})) {
    for (size_t s = 0; s < input.stages.size(); ++s) {
      size_t elements = 0;
      if (input.scalable[s])
        for (const uint32_t element : input.stages[s].fold.producer) elements = std::max<size_t>(elements, element + 1);
      logs_.emplace_back(elements);
      gradients_.emplace_back(elements);
      adam_.emplace_back(elements);
      views_.emplace_back();
      rounded_.emplace_back();
      for (size_t l = 0; l < input.weights[s].size(); ++l) {
        const MatrixView<const float> w = input.weights[s][l];
        std::vector<float>& rounded = rounded_[s].emplace_back(input.specs[s][l] ? w.rows * w.cols : 0);
        views_[s].push_back(rounded.empty() ? w : matrix<const float>(rounded.data(), w.rows, w.cols));
      }
    }
    for (const MatrixView<const float> document : input.documents) {
      std::vector<float>& want = want_.emplace_back(document.rows * document.cols);
      input_.block.run(input_.weights, document, matrix(want.data(), document.rows, document.cols));
    }
  }

  // The mean over the documents of the mean squared error of the block's output.
  double loss() {
    round_weights();
    double sum = 0;
    for (size_t d = 0; d < want_.size(); ++d) sum += run(d);
    return sum / static_cast<double>(want_.size());
  }

  // One step by the gradient of a document's loss / unit.
  void step(size_t d, double unit, double rate) {
    round_weights();
    run(d);
    const MatrixView<const float> document = input_.documents[d];
    std::vector<float>& error = got_;
    const double factor = 2 / (static_cast<double>(error.size()) * unit);
    for (size_t i = 0; i < error.size(); ++i)
      error[i] = static_cast<float>(factor * (double{error[i]} - double{want_[d][i]}));
    for (auto& gradient : gradients_) std::fill(gradient.begin(), gradient.end(), 0.0);
    input_.block.backward(views_, matrix<const float>(error.data(), document.rows, document.cols),
                          [&](size_t stage, size_t linear, MatrixView<const float> gradient) {
                            if (input_.scalable[stage]) collect(stage, linear, gradient);
                          });
    for (size_t s = 0; s < logs_.size(); ++s) {
      adam_[s].step(gradients_[s], rate, logs_[s]);
      for (double& log : logs_[s]) log = std::clamp(log, std::log(kLeast), -std::log(kLeast));
    }
  }

  std::vector<std::vector<float>> scales() const {
    std::vector<std::vector<float>> all;
    for (size_t s = 0; s < logs_.size(); ++s) all.push_back(scales(s));
    return all;
  }

 private:
  static constexpr double kLeast = 1e-5;  // factors stay in [kLeast, 1 / kLeast]
  static constexpr size_t kRows = 32;     // of one task

  std::vector<float> scales(size_t stage) const {
    std::vector<float> scales;
    if (input_.scalable[stage])
      for (const uint32_t element : input_.stages[stage].fold.producer)
        scales.push_back(static_cast<float>(std::exp(logs_[stage][element])));
    return scales;
  }

  void round_weights() {
    for (size_t s = 0; s < rounded_.size(); ++s) {
      std::vector<float> factors = scales(s);
      for (size_t l = 0; l < rounded_[s].size(); ++l)
        if (const QuantSpec* spec = input_.specs[s][l]) round(input_.weights[s][l], *spec, factors, rounded_[s][l]);
    }
  }

  // out = Q(W diag(s)) diag(1/s).
  void round(MatrixView<const float> w, const QuantSpec& spec, std::vector<float>& factors, std::vector<float>& out) {
    if (factors.empty()) factors.assign(w.cols, 1.0f);
    const std::vector<float> ones(w.cols, 1.0f);
    parallel_for(w.rows, spec.per_tensor ? w.rows : kRows, [&](size_t begin, size_t end) {
      const MatrixView<const float> rows{w.row(begin), end - begin, w.cols, w.stride};
      const std::vector<float> change = scaled_rounding(rows, spec, *rtn_, ones, factors);
      for (size_t r = begin; r < end; ++r)
        for (size_t c = 0; c < w.cols; ++c) out[r * w.cols + c] = w.row(r)[c] + change[(r - begin) * w.cols + c];
    });
  }

  // The mean squared error of document d's output, which is left in got_.
  double run(size_t d) {
    check_interrupted();
    const MatrixView<const float> document = input_.documents[d];
    const std::vector<float>& want = want_[d];
    got_.resize(want.size());
    input_.block.run(views_, document, matrix(got_.data(), document.rows, document.cols));
    double sum = 0;
    for (size_t i = 0; i < want.size(); ++i)
      sum += (double{got_[i]} - double{want[i]}) * (double{got_[i]} - double{want[i]});
    return sum / static_cast<double>(want.size());
  }

  void collect(size_t stage, size_t linear, MatrixView<const float> gradient) {
    const QuantSpec* spec = input_.specs[stage][linear];
    if (!spec) return;
    const std::vector<double> sums =
        scale_gradient(input_.weights[stage][linear], views_[stage][linear], gradient, *spec, scales(stage));
    for (size_t c = 0; c < sums.size(); ++c) gradients_[stage][input_.stages[stage].fold.producer[c]] += sums[c];
  }

  const TrainerInput& input_;
  std::unique_ptr<Algorithm> rtn_;
  std::vector<std::vector<double>> logs_, gradients_;  // [stages][elements that make columns]
  std::vector<Adam> adam_;
  std::vector<std::vector<std::vector<float>>> rounded_;  // [stages][linears], empty: not quantized
  BlockGradient::Weights views_;                          // of rounded_, else of the weights
  std::vector<std::vector<float>> want_;                  // [documents]: the output with the float weights
  std::vector<float> got_;                                // that of the document that was run last
};

// Trainable equivalent transformation (Cheng et al. 2023, arXiv 2310.10944): a factor for every input column, folded as
// AWQ's are, is found by gradient descent. There the loss is the model's cross-entropy; here it is each block's mean
// squared error, the factors are trained as logarithms, in which a step is relative, and grids follow the weights (see
// scale_gradient). Of the factors after each round of the documents, 1 among them, those of the least loss over all
// documents are kept. Graphs that are no known block are trained product by product (column_training.h).
class Teq final : public Trainer {
 public:
  explicit Teq(const AlgorithmSettings& settings)
      : iters_(static_cast<size_t>(settings.find("iters")->second)),
        documents_(static_cast<size_t>(settings.find("documents")->second)),
        rows_(static_cast<size_t>(settings.find("rows")->second)),
        rate_(settings.find("lr")->second) {}

  size_t documents() const override { return documents_; }

  std::vector<std::vector<float>> scales(const TrainerInput& input) const override {
    Training training(input);
    std::vector<std::vector<float>> best = training.scales();
    const double unit = training.loss();
    double least = unit;
    const size_t count = input.documents.size();
    for (size_t i = 0; i < iters_ && least > 0; ++i) {
      training.step(i % count, unit, rate_ * (1 - static_cast<double>(i) / static_cast<double>(iters_)));
      if ((i + 1) % count != 0 && i + 1 != iters_) continue;
      const double loss = training.loss();
      if (!(loss < least)) continue;
      least = loss;
      best = training.scales();
    }
    return best;
  }

  std::vector<float> layer_scales(const EqualizerInput& input) const override {
    return train_columns(input, {iters_, rate_, rows_});
  }

 private:
  size_t iters_, documents_, rows_;
  double rate_;
};

}  // namespace

extern const AlgorithmEntry teq_algorithm;
const AlgorithmEntry teq_algorithm = {
    .name = "teq",
    .summary =
        "scaling of input columns trained on each block's output, on ONNX graphs that are no known decoder on each "
        "product's; a rounding follows, else rtn",
    .options = kOptions,
    .make_trainer = [](const AlgorithmSettings& settings) -> std::unique_ptr<Trainer> {
      return std::make_unique<Teq>(settings);
    },
};

}  // namespace nibble
