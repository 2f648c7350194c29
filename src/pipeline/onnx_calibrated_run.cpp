#include "pipeline/onnx_calibrated_run.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/mapped_file.h"
#include "core/threads.h"
#include "core/usage.h"
#include "export/float_bytes.h"
#include "model/onnx_runtime.h"
#include "model/onnx_source.h"
#include "model/onnx_step_runner.h"
#include "model/onnx_steps.h"
#include "model/source_floats.h"
#include "pipeline/onnx_feeds.h"
#include "pipeline/stage_rounding.h"
#include "quant/activation_observer.h"
#include "quant/input_collector.h"

namespace nibble {
namespace {

// The weight, whose codes are mapped, as values in the order and type of its initializer, for inputs without `factors`,
// [cols]; empty: 1.
OnnxTensor contents(const PackedMatrix& packed, const OnnxWeight& weight, std::span<const float> factors) {
  std::vector<float> values(weight.rows * weight.cols);
  constexpr size_t kRows = 16;  // a line of the transposed matrix at a time
  const auto load = [&](size_t r, float* row) {
    packed.load_row(r, 0, weight.cols, row);
    for (size_t c = 0; c < factors.size(); ++c) row[c] *= factors[c];
  };
  parallel_for(weight.rows, kRows, [&](size_t begin, size_t end) {
    if (!weight.transposed) {
      for (size_t r = begin; r < end; ++r) load(r, &values[r * weight.cols]);
      return;
    }
    std::vector<float> rows((end - begin) * weight.cols);
    for (size_t r = begin; r < end; ++r) load(r, &rows[(r - begin) * weight.cols]);
    for (size_t c = 0; c < weight.cols; ++c)
      for (size_t r = begin; r < end; ++r) values[c * weight.rows + r] = rows[(r - begin) * weight.cols + c];
  });
  release_pages({reinterpret_cast<const std::byte*>(packed.codes), packed.rows * packed.row_stride});
  const auto bytes =
      std::make_shared<const std::vector<std::byte>>(float_bytes(values, *onnx_dtype(weight.tensor->data_type())));
  const Shape shape = weight.transposed ? Shape{weight.cols, weight.rows} : Shape{weight.rows, weight.cols};
  return {weight.tensor->data_type(), shape, *bytes, bytes, false};
}

// One value for each token, 0 for padding.
bool masks(const OnnxTensor& mask, const OnnxTensor& value) {
  const Shape tokens(value.shape.begin(), value.shape.end() - 1);
  return mask.shape.size() == 2 && onnx_bits(mask.type) % 8 == 0 &&
         (tokens == mask.shape || (tokens.size() == 1 && tokens[0] == element_count(mask.shape)));
}

// A value as rows of `cols` floats, without those of padding.
std::vector<float> rows_of(const OnnxTensor& value, size_t cols, const OnnxTensor* mask) {
  const auto dtype = onnx_dtype(value.type);
  if (!dtype || !is_float(*dtype) || value.shape.empty() || value.shape.back() != cols)
    throw Error(ErrorKind::kUnsupported,
                cat("is no matrix of floats with ", cols, " columns, but ", onnx_type_name(value.type)));
  std::vector<float> rows(element_count(value.shape));
  floats_from_bytes(*dtype, value.bytes.data(), rows.size(), rows.data(), "");
  if (!mask || !masks(*mask, value)) return rows;
  const size_t element = onnx_bits(mask->type) / 8;
  size_t kept = 0;
  for (size_t r = 0; r < rows.size() / cols; ++r) {
    const auto flag = mask->bytes.subspan(r * element, element);
    if (std::all_of(flag.begin(), flag.end(), [](std::byte byte) { return byte == std::byte{0}; })) continue;
    std::copy_n(rows.data() + r * cols, cols, rows.data() + kept++ * cols);
  }
  rows.resize(kept * cols);
  return rows;
}

// Weights whose nodes read the same values, and what was seen of these.
struct Group {
  BlockStage stage;
  std::vector<std::string> values;
  size_t known = 0;     // the step that makes the last of the values
  bool floats = false;  // some product runs before that: statistics come from the float graph
  std::optional<InputCollector> collector;
  std::optional<ActivationObserver> observer;  // where inputs are to have one range
  bool prepared = false;                       // columns are scaled: the observer sees inputs times `factors`
  std::optional<InputStats> stats;             // between the first look at the inputs and the second
  std::vector<float> factors;                  // [cols]
};

// Does what scales columns want the Gram matrix?
bool preparing_wants_gram(const AlgorithmChain& chain) {
  return !chain.trainers().empty() || std::any_of(chain.equalizers().begin(), chain.equalizers().end(),
                                                  [](const auto& equalizer) { return equalizer->needs_factor(); });
}

class GraphRun {
 public:
  GraphRun(const OnnxSource& source, const QuantizePlan& plan, std::filesystem::path work, Progress& progress)
      : source_(source), plan_(plan), work_(std::move(work)), progress_(progress) {
    for (const PlannedTensor& planned : plan.tensors)
      if (planned.calibrated) add(planned);
    std::set<std::string> wanted;
    std::set<int> products;
    for (const auto& [values, group] : groups_) {
      wanted.insert(values.begin(), values.end());
      for (const std::string& linear : group.stage.linears) {
        const std::vector<int>& nodes = source.place(linear).weight->nodes;
        products.insert(nodes.begin(), nodes.end());
      }
    }
    for (auto& [values, group] : groups_)
      // A weight for several values would need one factor for all of them.
      group.prepared = preparing_chain(group.stage, plan_) != nullptr && values.size() == 1;
    steps_ = cut_onnx(source.model().graph(), source.index(), products, wanted);
    find_times();
  }

  CalibratedGraph run(const std::shared_ptr<const OnnxRuntime>& runtime) {
    OnnxFeeds feeds = load_onnx_feeds(source_, *plan_.calibration, progress_);
    feeds.data.engine = cat("ONNX Runtime ", runtime->version());
    const auto count = [&](bool floats) {
      return std::any_of(groups_.begin(), groups_.end(),
                         [&](const auto& entry) { return entry.second.floats == floats; });
    };
    passes_ = (count(true) ? 1u : 0u) + (count(false) ? 1u : 0u);
    for (const bool floats : {true, false})
      if (count(floats)) pass(runtime, feeds.samples, floats);
    return result(std::move(feeds.data));
  }

  // What weights alone tell.
  CalibratedGraph run_without_data() {
    for (auto& [values, group] : groups_) {
      group.collector.emplace(group.stage.cols, /*gram=*/false, plan_.stream.bf16);
      choose_factors(group);
      round(group);
    }
    return result({{}, "no data", {}});
  }

 private:
  CalibratedGraph result(CalibrationData data) {
    CalibratedGraph result{{}, std::move(data)};
    result.tensors.weights = std::move(finished_.weights);
    result.tensors.measures = std::move(finished_.measures);
    result.tensors.inputs = std::move(finished_.inputs);
    result.tensors.input_factors = std::move(factors_);
    return result;
  }

  void add(const PlannedTensor& planned) {
    const OnnxWeight& weight = *source_.place(planned.name).weight;
    std::set<std::string> values;
    for (const int node : weight.nodes) values.insert(source_.model().graph().node(node).input(0));
    Group& group = groups_[std::vector<std::string>(values.begin(), values.end())];
    group.values.assign(values.begin(), values.end());
    group.stage.cols = weight.cols;
    group.stage.linears.push_back(planned.name);
    if (planned.activations.mode == ActivationSpec::Mode::kStatic) group.observer.emplace(plan_.stream.observer);
    planned_of_[weight.tensor] = &planned;
  }

  // Which statistics are complete when.
  void find_times() {
    std::map<std::string_view, size_t> made;
    std::map<int, size_t> runs;
    for (size_t s = 0; s < steps_.size(); ++s) {
      for (const std::string& value : steps_[s].wanted) made.emplace(value, s);
      for (const int node : steps_[s].nodes) runs.emplace(node, s);
    }
    for (auto& [values, group] : groups_) {
      for (const std::string& value : values) {
        const auto found = made.find(value);
        if (found == made.end())
          throw Error(ErrorKind::kUnsupported,
                      cat(group.stage.linears.front(), ": its input is constant; leave it with --skip"));
        group.known = std::max(group.known, found->second);
      }
      group.floats = !plan_.stream.true_sequential;
      for (const std::string& linear : group.stage.linears)
        for (const int node : source_.place(linear).weight->nodes)
          if (const auto run = runs.find(node); run != runs.end()) group.floats |= run->second <= group.known;
    }
  }

  // Everything through all steps that are needed; statistics and rounding of the groups with `floats`.
  void pass(const std::shared_ptr<const OnnxRuntime>& runtime, const std::vector<OnnxFeed>& feeds, bool floats) {
    std::map<std::string_view, std::vector<Group*>> readers;
    size_t last = 0;
    for (auto& [values, group] : groups_) {
      if (group.floats != floats) continue;
      last = std::max(last, group.known);
      for (const std::string& value : values) readers[value].push_back(&group);
    }
    OnnxStepRunner runner(source_.model(), steps_, runtime, feeds, work_, plan_.stream.activation_bytes);
    const auto replace = [&](const onnx::TensorProto& tensor) -> std::optional<OnnxTensor> {
      const auto planned = planned_of_.find(&tensor);
      if (floats || planned == planned_of_.end()) return std::nullopt;
      const auto rounded = finished_.weights.find(planned->second->name);
      if (rounded == finished_.weights.end()) return std::nullopt;
      const auto factors = factors_.find(planned->second->name);
      return contents(rounded->second, *source_.place(planned->second->name).weight,
                      factors == factors_.end() ? std::span<const float>() : factors->second);
    };
    size_t step = 0;
    const auto look = [&](size_t sample, const std::string& value, const OnnxTensor& tensor, bool again) {
      report(step, last, sample, feeds.size());
      const auto found = readers.find(value);
      if (found == readers.end()) return;
      const auto mask = feeds[sample].find("attention_mask");
      with_context([&] { return cat("value ", value); },
                   [&] {
                     for (Group* group : found->second) {
                       if (again && !(group->stats && group->prepared && group->observer)) continue;
                       std::vector<float> rows =
                           rows_of(tensor, group->stage.cols, mask == feeds[sample].end() ? nullptr : &mask->second);
                       again ? observe_scaled(*group, rows) : collect(*group, rows);
                     }
                   });
    };
    const auto observe = [&](size_t sample, const std::string& value, const OnnxTensor& tensor) {
      look(sample, value, tensor, false);
    };
    for (; step <= last; ++step) {
      std::vector<Group*> known;
      bool again = false;
      for (auto& [values, group] : groups_) {
        if (group.floats != floats || group.known != step) continue;
        known.push_back(&group);
        again |= group.prepared && group.observer;
      }
      runner.run(step, replace, observe, again);
      for (Group* group : known) choose_factors(*group);
      if (again)
        runner.observe_again(step, [&](size_t sample, const std::string& value, const OnnxTensor& tensor) {
          look(sample, value, tensor, true);
        });
      for (Group* group : known) round(*group);
    }
    ++pass_;
    return_free_memory();
  }

  void collect(Group& group, const std::vector<float>& rows) const {
    if (!group.collector) {
      const bool gram = wants_gram(group.stage, plan_) ||
                        (group.prepared && preparing_wants_gram(*preparing_chain(group.stage, plan_)));
      group.collector.emplace(group.stage.cols, gram, plan_.stream.bf16);
    }
    if (rows.empty()) return;
    const auto tokens = matrix(rows.data(), rows.size() / group.stage.cols, group.stage.cols);
    group.collector->add(tokens);
    if (group.observer && !group.prepared) group.observer->add(tokens);
  }

  static void observe_scaled(Group& group, std::vector<float>& rows) {
    for (size_t i = 0; i < rows.size(); ++i) rows[i] *= group.factors[i % group.stage.cols];
    group.observer->add(matrix<const float>(rows.data(), rows.size() / group.stage.cols, group.stage.cols));
  }

  void choose_factors(Group& group) {
    group.stats = group.collector->finish();
    group.collector.reset();
    if (group.stats->tokens == 0 && plan_.calibration->samples != 0)
      throw Error(ErrorKind::kUsage,
                  cat("the calibration data is nothing but padding for ", group.stage.linears.front()));
    if (!group.prepared) return;
    const DType dtype = plan_.find(group.stage.linears.front())->dtype;
    group.factors = folds_.choose_inputs(group.stage, plan_, *group.stats, dtype, wants_gram(group.stage, plan_));
    for (const std::string& linear : group.stage.linears) factors_[linear] = group.factors;
  }

  void round(Group& group) {
    FinishedBlock part;
    round_stage(group.stage, plan_, folds_, *group.stats, part);
    group.stats.reset();
    for (const std::string& linear : group.stage.linears) {
      const PlannedTensor& planned = *plan_.find(linear);
      planned.source->release(0, planned.source->rows());  // it is read again where a step has it as a float weight
      if (planned.activations.mode == ActivationSpec::Mode::kStatic)
        part.inputs[linear] = group.observer->chosen(planned.activations, planned.spec->scale_dtype);
      if (!group.prepared && preparing_chain(group.stage, plan_))
        part.measures[linear].fallback = "several values are multiplied by it: its columns are not scaled";
    }
    group.observer.reset();
    // Codes wait in a file, not in memory.
    const std::filesystem::path file = work_ / cat("rounded-", files_++);
    save_block(part, file);
    part = load_block(file, plan_);
    finished_.weights.merge(part.weights);
    finished_.measures.merge(part.measures);
    finished_.inputs.merge(part.inputs);
    std::error_code ignored;
    std::filesystem::remove(file, ignored);  // it stays mapped
  }

  void report(size_t step, size_t last, size_t sample, size_t samples) {
    const size_t steps = last + 1;
    progress_.update((pass_ * steps + step) * samples + sample, passes_ * steps * samples,
                     cat("step ", step + 1, "/", steps, " calibration data"));
  }

  const OnnxSource& source_;
  const QuantizePlan& plan_;
  std::filesystem::path work_;
  Progress& progress_;
  std::map<std::vector<std::string>, Group> groups_;  // by the values
  std::map<const onnx::TensorProto*, const PlannedTensor*> planned_of_;
  std::vector<OnnxStep> steps_;
  Folds folds_;
  std::map<std::string, std::vector<float>, std::less<>> factors_;  // of inputs, by tensor
  FinishedBlock finished_;
  size_t pass_ = 0, passes_ = 0, files_ = 0;
};

}  // namespace

CalibratedGraph quantize_graph(const Source& source, const QuantizePlan& plan, const std::filesystem::path& work,
                               Progress& progress) {
  if (plan.calibration->samples == 0)
    return GraphRun(dynamic_cast<const OnnxSource&>(source), plan, work, progress).run_without_data();
  return quantize_graph(source, plan, OnnxRuntime::open(*plan.onnx_runtime), work, progress);
}

CalibratedGraph quantize_graph(const Source& source, const QuantizePlan& plan,
                               const std::shared_ptr<const OnnxRuntime>& runtime, const std::filesystem::path& work,
                               Progress& progress) {
  return GraphRun(dynamic_cast<const OnnxSource&>(source), plan, work, progress).run(runtime);
}

}  // namespace nibble
