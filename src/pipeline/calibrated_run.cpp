#include "pipeline/calibrated_run.h"

#include <algorithm>
#include <optional>

#include "core/interrupt.h"
#include "core/text.h"
#include "model/block_sequence.h"
#include "pipeline/folds.h"
#include "pipeline/stage_rounding.h"
#include "quant/input_collector.h"
#include "quant/token_store.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// Documents one behind the other.
struct Layout {
  explicit Layout(const std::vector<std::vector<TokenId>>& documents) {
    for (const auto& document : documents) {
      begins.push_back(tokens);
      tokens += document.size();
      longest = std::max(longest, document.size());
    }
  }
  size_t tokens = 0, longest = 0;
  std::vector<size_t> begins;
};

fs::path hidden_file(const fs::path& work, size_t block) { return work / cat("hidden-", block); }
fs::path block_file(const fs::path& work, size_t block) { return work / cat("block-", block); }

bool rounds(const BlockStage& stage, const QuantizePlan& plan) {
  return std::any_of(stage.linears.begin(), stage.linears.end(), [&](const std::string& linear) {
    const PlannedTensor* planned = plan.find(linear);
    return planned && planned->action == PlannedTensor::Action::kQuantize;
  });
}

bool equalizer_wants_gram(const BlockStage& stage, const QuantizePlan& plan) {
  const AlgorithmChain* chain = preparing_chain(stage, plan);
  return chain && std::any_of(chain->equalizers().begin(), chain->equalizers().end(),
                              [](const auto& equalizer) { return equalizer->needs_factor(); });
}

class Stream {
 public:
  Stream(const Source& source, const QuantizePlan& plan, const std::vector<std::vector<TokenId>>& documents,
         const StreamOptions& options, fs::path work, Progress& progress)
      : plan_(plan),
        documents_(documents),
        layout_(documents),
        options_(options),
        work_(std::move(work)),
        progress_(progress),
        blocks_(open_blocks(source, options.bf16)) {}

  CalibratedTensors run() {
    count_ = count_blocks();
    while (index_ < count_ && fs::exists(block_file(work_, index_)))
      note_worst(load_block(block_file(work_, index_++), plan_));
    if (index_ == 0) embed();
    for (; index_ < count_; ++index_) {
      const FinishedBlock finished = run_block();
      save_block(finished, block_file(work_, index_));
      drop(hidden_file(work_, index_));
      note_worst(finished);
    }
    drop(hidden_file(work_, count_));
    CalibratedTensors tensors;
    for (size_t b = 0; b < count_; ++b) {
      FinishedBlock block = load_block(block_file(work_, b), plan_);
      tensors.weights.merge(block.weights);
      tensors.vectors.merge(block.vectors);
      tensors.measures.merge(block.measures);
    }
    return tensors;
  }

 private:
  static void drop(const fs::path& file) {
    std::error_code ignored;
    fs::remove(file, ignored);
  }

  // Blocks behind the last one with something to quantize need not run.
  size_t count_blocks() {
    for (size_t b = blocks_->blocks(); b > 0; --b) {
      const auto block = blocks_->load(b - 1);
      if (std::any_of(block->stages().begin(), block->stages().end(),
                      [&](const BlockStage& stage) { return rounds(stage, plan_); }))
        return b;
    }
    return 0;
  }

  void embed() {
    TokenStore hidden(layout_.tokens, blocks_->hidden_size(), DType::kF32, hidden_file(work_, 0));
    for (size_t d = 0; d < documents_.size(); ++d) {
      const MatrixView<float> rows = document(hidden_, d, blocks_->hidden_size());
      blocks_->embed(documents_[d], rows);
      hidden.write(layout_.begins[d], rows);
    }
  }

  // [tokens of document d, cols] of a buffer.
  MatrixView<float> document(std::vector<float>& buffer, size_t d, size_t cols) const {
    if (buffer.size() < layout_.longest * cols) buffer.resize(layout_.longest * cols);
    return matrix(buffer.data(), documents_[d].size(), cols);
  }

  FinishedBlock run_block() {
    const std::unique_ptr<Block> block = blocks_->load(index_);
    // The residual stream before and after the block: `in` stays as it is until the block is saved.
    const TokenStore in(layout_.tokens, blocks_->hidden_size(), DType::kF32, hidden_file(work_, index_));
    TokenStore out(layout_.tokens, blocks_->hidden_size(), DType::kF32, hidden_file(work_, index_ + 1));
    FinishedBlock finished;
    Folds folds;
    std::vector<InputStats> stats;
    const bool prepares = std::any_of(block->stages().begin(), block->stages().end(), [&](const BlockStage& stage) {
      return preparing_chain(stage, plan_) != nullptr;
    });
    if (prepares || !options_.true_sequential) stats = run_float(*block, in);
    if (prepares) {
      folds.choose(*block, plan_, stats, !options_.true_sequential, finished.vectors);
      train(*block, in, folds, stats, finished.vectors);
    }
    run_stages(*block, in, out, folds, std::move(stats), finished);
    return finished;
  }

  void train(Block& block, const TokenStore& in, Folds& folds, std::vector<InputStats>& stats,
             std::map<std::string, std::vector<float>, std::less<>>& vectors) {
    const size_t count = std::min(documents_.size(), documents_to_train(block, plan_));
    if (count == 0) return;
    report(0, 0, "training");
    std::vector<std::vector<float>> kept;
    std::vector<MatrixView<const float>> documents;
    for (size_t d = 0; d < count; ++d) {
      std::vector<float>& values = kept.emplace_back(documents_[d].size() * in.cols());
      const MatrixView<float> rows = matrix(values.data(), documents_[d].size(), in.cols());
      in.read(layout_.begins[d], rows);
      documents.push_back(rows);
    }
    folds.train(block, plan_, documents, stats, vectors);
  }

  // The statistics of every stage's inputs with the block as it is.
  std::vector<InputStats> run_float(Block& block, const TokenStore& in) {
    const std::vector<BlockStage>& stages = block.stages();
    std::vector<InputCollector> collectors;
    collectors.reserve(stages.size());
    for (const BlockStage& stage : stages)
      collectors.emplace_back(
          stage.cols, equalizer_wants_gram(stage, plan_) || (!options_.true_sequential && wants_gram(stage, plan_)),
          options_.bf16);
    for (size_t d = 0; d < documents_.size(); ++d) {
      check_interrupted();
      report(0, 0, "statistics");
      const MatrixView<float> hidden = document(hidden_, d, in.cols());
      in.read(layout_.begins[d], hidden);
      block.begin(hidden, document(x_, d, stages.front().cols));
      for (size_t s = 0; s < stages.size(); ++s) {
        const MatrixView<float> x = document(x_, d, stages[s].cols);
        collectors[s].add(x);
        if (s + 1 == stages.size()) break;
        block.advance(s, x, hidden, document(next_, d, stages[s + 1].cols));
        std::swap(x_, next_);
      }
    }
    block.release();
    std::vector<InputStats> stats;
    stats.reserve(stages.size());
    for (InputCollector& collector : collectors) stats.push_back(collector.finish());
    return stats;
  }

  // Stage by stage: make its inputs, round its linears, go on with what became of them. `stats` as run_float() gave
  // them, used where the inputs of the quantized stages before are not wanted.
  void run_stages(Block& block, const TokenStore& in, TokenStore& out, const Folds& folds,
                  std::vector<InputStats> stats, FinishedBlock& finished) {
    const std::vector<BlockStage>& stages = block.stages();
    const auto widest =
        std::max_element(stages.begin(), stages.end(), [](const auto& a, const auto& b) { return a.cols < b.cols; });
    const DType kept = options_.bf16 ? DType::kBF16 : DType::kF32;
    const size_t bytes = byte_size(kept, layout_.tokens * widest->cols);
    TokenStore inputs(layout_.tokens, widest->cols, kept, bytes <= options_.activation_bytes ? fs::path() : work_);
    const TokenStore* residual = &in;
    for (size_t s = 0; s < stages.size(); ++s) {
      std::optional<InputCollector> collector;
      if (options_.true_sequential) collector.emplace(stages[s].cols, wants_gram(stages[s], plan_), options_.bf16);
      run_documents(block, s, *residual, out, inputs, collector ? &*collector : nullptr);
      if (s > 0 && stages[s - 1].residual) residual = &out;
      report(s, 0.5, stages[s].linears.front());
      InputStats own = collector ? collector->finish() : std::move(stats[s]);
      round_stage(stages[s], plan_, folds, own, finished);
      for (size_t l = 0; l < stages[s].linears.size(); ++l) {
        const auto weight = finished.weights.find(stages[s].linears[l]);
        if (weight == finished.weights.end()) continue;
        WeightMatrix quantized(weight->second);
        quantized.activations = plan_.find(weight->first)->activations;
        quantized.bf16_products = options_.bf16;
        block.replace(s, l, std::move(quantized));
      }
      block.release();  // what is still to come is read again
    }
    run_documents(block, stages.size(), *residual, out, inputs, nullptr);
  }

  // Puts all documents through the stage before `s` (for s = 0: through what comes before it): the inputs of stage s.
  void run_documents(Block& block, size_t s, const TokenStore& residual, TokenStore& out, TokenStore& inputs,
                     InputCollector* collector) {
    const std::vector<BlockStage>& stages = block.stages();
    const size_t cols = s < stages.size() ? stages[s].cols : 0;
    const bool adds = s > 0 && stages[s - 1].residual;
    for (size_t d = 0; d < documents_.size(); ++d) {
      check_interrupted();
      report(s, 0.5 * static_cast<double>(d) / static_cast<double>(documents_.size()), "calibration tokens");
      const size_t begin = layout_.begins[d];
      const MatrixView<float> hidden = document(hidden_, d, residual.cols()), next = document(next_, d, cols);
      if (s == 0 || adds) residual.read(begin, hidden);
      if (s == 0) {
        block.begin(hidden, next);
      } else {
        const MatrixView<float> x = document(x_, d, stages[s - 1].cols);
        inputs.read(begin, x);
        block.advance(s - 1, x, hidden, next);
      }
      if (adds) out.write(begin, hidden);
      if (collector) collector->add(next);
      if (cols != 0) inputs.write(begin, next);
    }
  }

  void note_worst(const FinishedBlock& block) {
    for (const auto& [name, measure] : block.measures) {
      const bool outputs = measure.output_signal > 0;
      const double error = outputs ? measure.output_error / measure.output_signal : measure.error / measure.signal;
      if (!(error > worst_error_)) continue;
      worst_error_ = error;
      worst_ = cat("; worst so far ", name, " ", format_fixed(100 * error, 2), " %");
    }
  }

  // `part`: of stage `s` in this block.
  void report(size_t s, double part, std::string_view note) {
    constexpr size_t kSteps = 1000;  // of a stage
    constexpr size_t kStages = 5;    // of a block, its end included; the last one is short
    const size_t done = (index_ * kStages + std::min(s, kStages - 1)) * kSteps + static_cast<size_t>(part * kSteps);
    progress_.update(done, count_ * kStages * kSteps, cat("block ", index_ + 1, "/", count_, " ", note, worst_));
  }

  const QuantizePlan& plan_;
  const std::vector<std::vector<TokenId>>& documents_;
  Layout layout_;
  StreamOptions options_;
  fs::path work_;
  Progress& progress_;
  std::unique_ptr<BlockSequence> blocks_;
  size_t index_ = 0, count_ = 0;  // block at work, blocks in all
  double worst_error_ = 0;
  std::string worst_;
  std::vector<float> hidden_, x_, next_;  // of one document
};

}  // namespace

CalibratedTensors quantize_blocks(const Source& source, const QuantizePlan& plan,
                                  const std::vector<std::vector<TokenId>>& documents, const StreamOptions& options,
                                  const fs::path& work, Progress& progress) {
  return Stream(source, plan, documents, options, work, progress).run();
}

}  // namespace nibble
