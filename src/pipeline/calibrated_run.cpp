#include "pipeline/calibrated_run.h"

#include <algorithm>
#include <optional>

#include "core/interrupt.h"
#include "core/text.h"
#include "model/block_sequence.h"
#include "pipeline/folds.h"
#include "pipeline/stage_rounding.h"
#include "pipeline/stage_runner.h"
#include "quant/activation_observer.h"
#include "quant/compressed_config.h"
#include "quant/input_collector.h"
#include "quant/token_store.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

fs::path hidden_file(const fs::path& work, size_t block) { return work / cat("hidden-", block); }
// The residual stream of the float model.
fs::path float_file(const fs::path& work, size_t block) { return work / cat("float-", block); }
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

bool static_inputs(const BlockStage& stage, const QuantizePlan& plan) {
  return std::any_of(stage.linears.begin(), stage.linears.end(), [&](const std::string& linear) {
    const PlannedTensor* planned = plan.find(linear);
    return planned && planned->action == PlannedTensor::Action::kQuantize &&
           planned->activations.mode == ActivationSpec::Mode::kStatic;
  });
}

bool wants_float_inputs(const QuantizePlan& plan) {
  return std::any_of(plan.tensors.begin(), plan.tensors.end(), [&](const PlannedTensor& planned) {
    return planned.calibrated && plan.algorithms.find(planned.algorithm)->second->wants_float_inputs(*planned.spec);
  });
}

// What one block makes of the documents: its residual streams and the inputs of the stage at work.
struct BlockRun {
  BlockRun(Block& block, const DocumentLayout& layout, size_t hidden_size, const fs::path& before,
           const fs::path& after, DType kept, const fs::path& inputs_path)
      : in(layout.tokens, hidden_size, DType::kF32, before),
        out(layout.tokens, hidden_size, DType::kF32, after),
        inputs(layout.tokens, widest(block), kept, inputs_path),
        runner(block, layout, in, out, inputs) {}

  static size_t widest(const Block& block) {
    size_t cols = 0;
    for (const BlockStage& stage : block.stages()) cols = std::max(cols, stage.cols);
    return cols;
  }

  const TokenStore in;  // stays as it is until the block is saved
  TokenStore out, inputs;
  StageRunner runner;
};

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
        blocks_(open_blocks(source, options.bf16)),
        both_(wants_float_inputs(plan)) {}

  CalibratedTensors run() {
    count_ = count_blocks();
    while (index_ < count_ && fs::exists(block_file(work_, index_)))
      note_worst(load_block(block_file(work_, index_++), plan_));
    if (index_ == 0) embed();
    for (; index_ < count_; ++index_) {
      const FinishedBlock finished = run_block();
      save_block(finished, block_file(work_, index_));
      drop(hidden_file(work_, index_));
      drop(float_file(work_, index_));
      note_worst(finished);
    }
    drop(hidden_file(work_, count_));
    drop(float_file(work_, count_));
    CalibratedTensors tensors;
    for (size_t b = 0; b < count_; ++b) {
      FinishedBlock block = load_block(block_file(work_, b), plan_);
      tensors.weights.merge(block.weights);
      tensors.vectors.merge(block.vectors);
      tensors.measures.merge(block.measures);
      tensors.inputs.merge(block.inputs);
      tensors.cache_scales.merge(block.cache_scales);
    }
    return tensors;
  }

 private:
  static void drop(const fs::path& file) {
    std::error_code ignored;
    fs::remove(file, ignored);
  }

  // Blocks behind the last one with something to quantize need not run, unless their keys and values are looked at.
  size_t count_blocks() {
    for (size_t b = blocks_->blocks(); b > plan_.cached.size(); --b) {
      const auto block = blocks_->load(b - 1);
      if (std::any_of(block->stages().begin(), block->stages().end(),
                      [&](const BlockStage& stage) { return rounds(stage, plan_); }))
        return b;
    }
    return plan_.cached.size();
  }

  void embed() {
    std::vector<fs::path> files = {hidden_file(work_, 0)};
    if (both_) files.push_back(float_file(work_, 0));
    std::vector<float> buffer(layout_.longest * blocks_->hidden_size());
    for (const fs::path& file : files) {
      TokenStore hidden(layout_.tokens, blocks_->hidden_size(), DType::kF32, file);
      for (size_t d = 0; d < documents_.size(); ++d) {
        const MatrixView<float> rows = matrix(buffer.data(), documents_[d].size(), blocks_->hidden_size());
        blocks_->embed(documents_[d], rows);
        hidden.write(layout_.begins[d], rows);
      }
    }
  }

  // `name` names the files of the residual stream.
  std::unique_ptr<BlockRun> open_run(Block& block, fs::path (*name)(const fs::path&, size_t)) const {
    const DType kept = options_.bf16 ? DType::kBF16 : DType::kF32;
    const size_t bytes = byte_size(kept, layout_.tokens * BlockRun::widest(block)) * (both_ ? 2 : 1);
    return std::make_unique<BlockRun>(block, layout_, blocks_->hidden_size(), name(work_, index_),
                                      name(work_, index_ + 1), kept,
                                      bytes <= options_.activation_bytes ? fs::path() : work_);
  }

  FinishedBlock run_block() {
    const std::unique_ptr<Block> block = blocks_->load(index_);
    const std::unique_ptr<BlockRun> run = open_run(*block, hidden_file);
    FinishedBlock finished;
    Folds folds;
    std::vector<InputStats> stats;
    const bool prepares = std::any_of(block->stages().begin(), block->stages().end(), [&](const BlockStage& stage) {
      return preparing_chain(stage, plan_) != nullptr;
    });
    if (prepares || !options_.true_sequential) stats = run_float(*block, *run);
    if (prepares) {
      folds.choose(*block, plan_, stats, !options_.true_sequential, finished.vectors);
      train(*block, run->in, folds, stats, finished.vectors);
    }
    run_stages(*block, *run, folds, std::move(stats), finished);
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
  std::vector<InputStats> run_float(Block& block, BlockRun& run) {
    const std::vector<BlockStage>& stages = block.stages();
    std::vector<InputCollector> collectors;
    collectors.reserve(stages.size());
    for (const BlockStage& stage : stages)
      collectors.emplace_back(
          stage.cols, equalizer_wants_gram(stage, plan_) || (!options_.true_sequential && wants_gram(stage, plan_)),
          options_.bf16);
    std::vector<float> hidden_storage(layout_.longest * run.in.cols()), x(layout_.longest * BlockRun::widest(block)),
        next(x.size());
    for (size_t d = 0; d < documents_.size(); ++d) {
      check_interrupted();
      report(0, 0, "statistics");
      const size_t tokens = layout_.size(d);
      const MatrixView<float> hidden = matrix(hidden_storage.data(), tokens, run.in.cols());
      run.in.read(layout_.begins[d], hidden);
      block.begin(hidden, matrix(x.data(), tokens, stages.front().cols));
      for (size_t s = 0; s < stages.size(); ++s) {
        const MatrixView<const float> input = matrix<const float>(x.data(), tokens, stages[s].cols);
        collectors[s].add(input);
        if (s + 1 == stages.size()) break;
        block.advance(s, input, hidden, matrix(next.data(), tokens, stages[s + 1].cols));
        std::swap(x, next);
      }
    }
    block.release();
    std::vector<InputStats> stats;
    stats.reserve(stages.size());
    for (InputCollector& collector : collectors) stats.push_back(collector.finish());
    return stats;
  }

  // Stage by stage: make its inputs, round its linears, go on with what became of them. `stats` as run_float() gave
  // them, used where the inputs of the quantized stages before are not wanted. Where float inputs are, the same
  // documents go through the float model's block beside it.
  void run_stages(Block& block, BlockRun& run, const Folds& folds, std::vector<InputStats> stats,
                  FinishedBlock& finished) {
    const std::vector<BlockStage>& stages = block.stages();
    const std::unique_ptr<Block> other = both_ ? blocks_->load(index_) : nullptr;
    const std::unique_ptr<BlockRun> float_run = other ? open_run(*other, float_file) : nullptr;
    ActivationObserver keys({}), values({});
    const bool cached = index_ < plan_.cached.size();
    if (cached)
      block.watch_cache([&](MatrixView<const float> k, MatrixView<const float> v) {
        keys.add(k);
        values.add(v);
      });
    for (size_t s = 0; s < stages.size(); ++s) {
      std::optional<InputCollector> collector;
      if (options_.true_sequential) collector.emplace(stages[s].cols, wants_gram(stages[s], plan_), options_.bf16);
      std::optional<ActivationObserver> observer;
      if (static_inputs(stages[s], plan_)) observer.emplace(options_.observer);
      run_documents(s, run, float_run.get(), collector ? &*collector : nullptr, observer ? &*observer : nullptr,
                    folds.column_factors(stages[s].linears.front()));
      report(s, 0.5, stages[s].linears.front());
      InputStats own = collector ? collector->finish() : std::move(stats[s]);
      round_stage(stages[s], plan_, folds, own, finished);
      for (size_t l = 0; l < stages[s].linears.size(); ++l) {
        const auto weight = finished.weights.find(stages[s].linears[l]);
        if (weight == finished.weights.end()) continue;
        WeightMatrix quantized(weight->second);
        const PlannedTensor& planned = *plan_.find(weight->first);
        quantized.activations = planned.activations;
        if (planned.activations.mode == ActivationSpec::Mode::kStatic) {
          quantized.activations = observer->chosen(planned.activations, planned.spec->scale_dtype);
          finished.inputs[weight->first] = quantized.activations;
        }
        quantized.bf16_products = options_.bf16;
        block.replace(s, l, std::move(quantized));
      }
      block.release();  // what is still to come is read again
    }
    run_documents(stages.size(), run, float_run.get(), nullptr, nullptr, {});
    if (!cached) return;
    block.watch_cache({});
    finished.cache_scales[plan_.cached[index_] + ".k_scale"] = keys.chosen(cache_scheme(), plan_.dtype).scale;
    finished.cache_scales[plan_.cached[index_] + ".v_scale"] = values.chosen(cache_scheme(), plan_.dtype).scale;
  }

  // All documents to the inputs of stage s. `factors`: what its columns were divided by, empty for nothing: the float
  // model's inputs are as if they were too.
  void run_documents(size_t s, BlockRun& run, BlockRun* float_run, InputCollector* collector,
                     ActivationObserver* observer, std::span<const float> factors) {
    std::vector<float> wanted;
    for (size_t d = 0; d < documents_.size(); ++d) {
      check_interrupted();
      report(s, 0.5 * static_cast<double>(d) / static_cast<double>(documents_.size()), "calibration tokens");
      const MatrixView<const float> x = run.runner.run(s, d);
      if (observer) observer->add(x);
      if (!float_run) {
        if (collector) collector->add(x);
        continue;
      }
      const MatrixView<const float> y = float_run->runner.run(s, d);
      if (!collector) continue;
      wanted.assign(y.data, y.data + y.rows * y.cols);
      for (size_t i = 0; !factors.empty() && i < wanted.size(); ++i) wanted[i] /= factors[i % y.cols];
      collector->add(x, matrix<const float>(wanted.data(), y.rows, y.cols));
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
  DocumentLayout layout_;
  StreamOptions options_;
  fs::path work_;
  Progress& progress_;
  std::unique_ptr<BlockSequence> blocks_;
  bool both_;                     // does the float model run beside the quantized one?
  size_t index_ = 0, count_ = 0;  // block at work, blocks in all
  double worst_error_ = 0;
  std::string worst_;
};

}  // namespace

CalibratedTensors quantize_blocks(const Source& source, const QuantizePlan& plan,
                                  const std::vector<std::vector<TokenId>>& documents, const StreamOptions& options,
                                  const fs::path& work, Progress& progress) {
  return Stream(source, plan, documents, options, work, progress).run();
}

}  // namespace nibble
