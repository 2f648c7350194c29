#include "pipeline/plan.h"

#include <algorithm>
#include <set>

#include "core/text.h"
#include "export/gguf_scheme.h"
#include "kernels/bf16.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "pipeline/block_types.h"
#include "pipeline/effort.h"
#include "pipeline/norm_gains.h"
#include "pipeline/onnx_plan.h"
#include "pipeline/plan_spec.h"
#include "pipeline/planned_source.h"
#include "pipeline/presets.h"
#include "pipeline/rules.h"
#include "pipeline/statistics.h"
#include "quant/ggml_blocks.h"

namespace nibble {
namespace {

constexpr std::string_view kWeight = ".weight";
// Up to here what rounding does to a block's inner activations misleads more than it teaches (docs/accuracy.md).
constexpr int kCoarseBits = 2;

bool from_gguf(const Source& source) { return source.kind().starts_with("gguf"); }

class Planner {
 public:
  Planner(const Source& source, const QuantizeRequest& request, const ExporterEntry* format)
      : source_(source),
        request_(request),
        format_(format),
        config_(parse_config(source.config())),
        rules_(request.skip, request.rules) {
    check_tensors(source, config_);
    plan_.dtype = request.dtype.value_or(prevailing_dtype(source));
    plan_.warnings = source.notes();
    if (const auto blocks = find_block_types(request, config_, format)) blocks_.emplace(*blocks);
    if (blocks_ && blocks_->dtype()) plan_.dtype = *blocks_->dtype();
    scale_dtype_ =
        request.scale_dtype.value_or(format != nullptr && format->scale_dtype ? *format->scale_dtype : plan_.dtype);
    if (!blocks_) linear_ = linear_choice(request, scale_dtype_);
    choose_tables();
  }

  QuantizePlan make() {
    for (const auto& tensor : source_.tensors())
      if (role_of(*config_.architecture, tensor->name()) == TensorRole::kLinear)
        linear_modules_.push_back(module_of(tensor->name()));
    for (const auto& tensor : source_.tensors()) add(*tensor);
    if (untied_) add_untied_head();
    for (std::string& line : rules_.unmatched()) {
      if (config_.tied_embeddings && !untied_ && line.find("lm_head") != std::string::npos)
        line += " (lm_head shares the embedding's tensor; --lm-head gives it its own)";
      plan_.warnings.push_back(std::move(line));
    }
    for (const auto& [fallback, count] : fallbacks_)
      plan_.warnings.push_back(cat(fallback, " (", count, count == 1 ? " tensor)" : " tensors)"));
    note_quantized_input();
    if (blocks_) plan_.scheme = blocks_->name();
    choose_calibration();
    make_chains();
    check_used();
    return std::move(plan_);
  }

 private:
  static std::string module_of(std::string_view name) {
    return std::string(name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : name);
  }

  void choose_tables() {
    const TableChoice embedding = request_.embedding.value_or(TableChoice{});
    const TableChoice head = request_.lm_head.value_or(config_.tied_embeddings ? embedding : TableChoice{});
    if (format_ && format_->quantizes_head && !request_.lm_head && request_.last_matmul) head_ = linear_;
    if (!embedding.keep && !blocks_) embedding_ = table_choice(embedding, "--embedding", scale_dtype_);
    if (!head.keep && !blocks_) head_ = table_choice(head, "--lm-head", scale_dtype_);
    untied_ = config_.tied_embeddings && head != embedding;
    plan_.tied_embeddings = config_.tied_embeddings && !untied_;
    if (untied_ && !format_)
      throw Error(ErrorKind::kUsage,
                  "the embedding and lm_head share one tensor; to quantize them differently, write a model with "
                  "`nibble quantize`");
    if (untied_)
      plan_.warnings.emplace_back(
          "--lm-head differs from --embedding: lm_head gets a tensor of its own and the model is no longer tied");
  }

  void add(const StoredTensor& tensor) {
    PlannedTensor planned;
    planned.source = &tensor;
    planned.name = tensor.name();
    planned.role = role_of(*config_.architecture, tensor.name());
    if (planned.role == TensorRole::kLmHead && config_.tied_embeddings) {
      plan_.warnings.push_back(cat(tensor.name(), " is left out: config.json ties it to the embedding"));
      return;
    }
    if (planned.role == TensorRole::kEmbedding) plan_.embedding = tensor.name();
    decide(planned);
    finish(std::move(planned));
  }

  void add_untied_head() {
    const TensorRule* rule = config_.architecture->find(Slot::kLmHead);
    PlannedTensor planned;
    planned.source = &source_.get(plan_.embedding);
    planned.name = rule ? tensor_name(rule->hf, std::nullopt, false) : "lm_head.weight";
    planned.role = TensorRole::kLmHead;
    decide(planned);
    finish(std::move(planned));
  }

  void decide(PlannedTensor& planned) {
    const bool matrix =
        planned.source->shape().size() == 2 && planned.name.ends_with(kWeight) && is_float(planned.source->dtype());
    planned.dtype =
        kept_dtype(*planned.source, matrix && blocks_ && blocks_->dtype() ? blocks_->dtype() : request_.dtype);
    if (!matrix) {
      planned.reason = planned.role == TensorRole::kOther ? "not a matrix" : name(planned.role);
      return;
    }
    const std::string module = planned.module();
    const std::string* skipped = rules_.skipped(module);
    const Rule* rule = rules_.rule(module);
    if (skipped) return keep(planned, cat("--skip '", *skipped, "'"));
    if (blocks_) return decide_blocks(planned, rule);
    std::optional<SpecChoice> choice = base_choice(planned);
    if (rule && reaches(*rule, planned, choice.has_value()))
      choice = apply_rule(*rule, choice ? choice : linear_weights(), scale_dtype_);
    if (!choice)
      return keep(planned,
                  planned.role == TensorRole::kLinear ? "no scheme for linears" : cat(name(planned.role), " kept"));
    const bool like_linears =
        planned.role == TensorRole::kLmHead && !request_.lm_head && format_ && format_->quantizes_head;
    if (planned.role == TensorRole::kEmbedding || (planned.role == TensorRole::kLmHead && !like_linears))
      choice->activations = {};
    if (choice->activations.mode == ActivationSpec::Mode::kStatic && format_ && format_->asymmetric_inputs)
      choice->activations.symmetric = false;
    const FittedGroup fitted =
        with_context([&] { return planned.name; },
                     [&] { return fit_group(*choice, planned.source->cols(), request_.allow_fallback); });
    planned.fallback = fitted.fallback;
    if (!fitted.fallback.empty()) ++fallbacks_[fitted.fallback];
    if (!fitted.spec) return keep(planned, choice->reason);
    planned.action = PlannedTensor::Action::kQuantize;
    planned.spec = fitted.spec;
    planned.activations = choice->activations;
    planned.reason = choice->reason;
    planned.algorithm = rule && rule->algorithm ? *rule->algorithm : request_.algorithm.value_or("rtn");
    if (planned.source->spec()) ++requantized_[planned.source->type_name()];
  }

  // A GGUF type was asked for: it decides about every matrix.
  void decide_blocks(PlannedTensor& planned, const Rule* rule) {
    const BlockTypes::Choice choice = with_context(
        [&] { return planned.name; },
        [&] { return blocks_->choose(planned.name, planned.source->cols(), rule, request_.allow_fallback); });
    planned.fallback = choice.fallback;
    if (!choice.fallback.empty()) ++fallbacks_[choice.fallback];
    if (!is_block_type(choice.type)) {
      planned.dtype = choice.type;
      planned.reason = choice.reason;
      return;
    }
    const bool kept = planned.source->block_type() == choice.type && !request_.algorithm;
    if (kept && format_ && format_->blocks)
      return keep(planned, cat(choice.reason, ": already ", info(choice.type).name));
    planned.action = PlannedTensor::Action::kQuantize;
    planned.spec = ggml_target_spec(choice.type);
    planned.reason = choice.reason;
    planned.algorithm = rule && rule->algorithm ? *rule->algorithm : request_.algorithm.value_or("kquant");
    if (is_block_type(planned.spec->scale_dtype) && chain(planned.algorithm).names().back() != "kquant")
      throw Error(ErrorKind::kUsage,
                  cat(planned.name, ": ", planned.algorithm, " cannot make the two-level scales of ",
                      info(choice.type).name, "; use --algorithm kquant or a type with plain scales, such as Q4_0"));
    if (planned.source->spec()) ++requantized_[planned.source->type_name()];
  }

  std::optional<SpecChoice> base_choice(const PlannedTensor& planned) const {
    switch (planned.role) {
      case TensorRole::kLinear:
        return linear_;
      case TensorRole::kEmbedding:
        return embedding_;
      case TensorRole::kLmHead:
        return head_;
      default:
        return std::nullopt;
    }
  }

  // A rule for a tensor that would be kept inherits the linears' scheme, if there is one.
  std::optional<SpecChoice> linear_weights() const { return linear_; }

  // Rules are for the blocks' linears. A tensor that is kept by default (lm_head, an embedding, a router) is reached
  // only by a rule that aims at it, that is, at none of the linears: '.*:bits=8' must not quantize an embedding.
  bool reaches(const Rule& rule, const PlannedTensor& planned, bool quantized) const {
    return planned.role == TensorRole::kLinear || quantized || !rules_.matches_any(rule, linear_modules_);
  }

  void keep(PlannedTensor& planned, std::string reason) const {
    planned.reason = std::move(reason);
    // Codes that nobody asked to change stay exact; a GGUF counts as a float model in a smaller file.
    if (!planned.source->spec()) return;
    if (planned.source->block_type() && format_ && format_->blocks && !request_.dtype) {
      planned.action = PlannedTensor::Action::kMoveBlocks;
      planned.spec = planned.source->spec();
      planned.reason += "; blocks unchanged";
      return;
    }
    if (from_gguf(source_)) {
      planned.reason += cat("; dequantized from ", planned.source->type_name());
      return;
    }
    planned.action = PlannedTensor::Action::kMoveCodes;
    planned.spec = planned.source->spec();
    planned.activations = planned.source->activations();
    planned.reason += "; codes unchanged";
  }

  void finish(PlannedTensor planned) {
    const size_t count = element_count(planned.source->shape());
    plan_.tensors.push_back(std::move(planned));
    plan_.parameters += count;
  }

  const AlgorithmChain& chain(const std::string& names) {
    auto& chain = chains_[names];
    if (!chain) chain = std::make_unique<const AlgorithmChain>(names, request_.settings);
    return *chain;
  }

  // A tensor of the model's blocks, whose inputs calibration sees.
  bool in_stream(const PlannedTensor& planned) const {
    return planned.action == PlannedTensor::Action::kQuantize &&
           (planned.role == TensorRole::kLinear || (planned.role == TensorRole::kLmHead && !config_.tied_embeddings));
  }

  // Saved statistics take the place of calibration.
  void use_statistics(bool inputs_needed, bool calibration_asked) {
    if (calibration_asked)
      throw Error(ErrorKind::kUsage, "--stats takes the place of calibration; leave out the calibration options");
    if (request_.fp8_cache)
      throw Error(ErrorKind::kUsage,
                  "--stats says nothing of keys and values, which --kv-cache-scheme needs; use --calib");
    if (inputs_needed)
      throw Error(
          ErrorKind::kUsage,
          "--stats holds mean squares, but an algorithm or --act static needs more of a linear's inputs; use --calib");
    with_context([] { return "--stats"; },
                 [&] { plan_.importance = importance_of(read_imatrix(*request_.stats), source_); });
    size_t without = 0, used = 0;
    for (const PlannedTensor& planned : plan_.tensors) {
      if (planned.action != PlannedTensor::Action::kQuantize) continue;
      const bool known = plan_.importance.contains(planned.name);
      if (chain(planned.algorithm).input_use() == InputUse::kImportance) ++(known ? used : without);
    }
    if (used == 0)
      throw Error(ErrorKind::kUsage,
                  "none of the tensors quantized here uses --stats; algorithms that do are search, hqq and kquant");
    if (without > 0)
      plan_.warnings.push_back(cat("--stats says nothing of ", without, " of the tensors quantized here"));
  }

  // Ranges are found for inputs that calibration sees, no others.
  void drop_unseen_ranges() {
    for (PlannedTensor& planned : plan_.tensors) {
      if (planned.action != PlannedTensor::Action::kQuantize || in_stream(planned) ||
          planned.activations.mode != ActivationSpec::Mode::kStatic)
        continue;
      planned.activations = {};
      planned.fallback +=
          cat(planned.fallback.empty() ? "" : "; ", "calibration does not see its inputs: weights only");
      plan_.warnings.push_back(cat(planned.module(), ": calibration does not see its inputs, which stay float"));
    }
  }

  std::vector<std::string> attentions() const {
    std::vector<std::string> modules;
    for (size_t layer = 0; layer < config_.layers; ++layer) {
      const std::string key = tensor_name(config_.architecture->find(Slot::kKey)->hf, layer, false);
      modules.push_back(key.substr(0, key.rfind('.', key.size() - kWeight.size() - 1)));
    }
    return modules;
  }

  void choose_calibration() {
    drop_unseen_ranges();
    const bool asked = !request_.calibration.empty();
    bool needed = false, used = false, prepares = false, both = false, fixed = false, coarse = false;
    for (const PlannedTensor& planned : plan_.tensors) {
      if (!in_stream(planned)) continue;
      const AlgorithmChain& own = chain(planned.algorithm);
      needed |= own.needs_inputs();
      used |= own.input_use() != InputUse::kNone;
      prepares |= own.prepares();
      both |= own.wants_float_inputs(*planned.spec);
      fixed |= planned.activations.mode == ActivationSpec::Mode::kStatic;
      coarse |= planned.spec->bits <= kCoarseBits;
    }
    needed |= fixed || request_.fp8_cache;
    if (request_.fp8_cache) plan_.cached = attentions();
    if (request_.observer && !fixed)
      throw Error(ErrorKind::kUsage, "--act-observer chooses ranges of static activations: add --act static");
    if (both && request_.true_sequential == false)
      throw Error(ErrorKind::kUsage,
                  "gptq.alpha compares the float model's inputs with those behind quantized linears: leave out "
                  "--no-true-sequential");
    if (request_.calibration.samples == size_t{0})
      throw Error(ErrorKind::kUsage, "--samples should be 1 or more, found 0");
    if (asked && !needed && !used && quantizes())
      throw Error(ErrorKind::kUsage,
                  "none of the algorithms used here looks at activations: leave out the calibration options, or choose "
                  "another --algorithm (see --help-algorithms)");
    if (request_.stats) return use_statistics(needed, asked);
    const bool calibrated = needed || (asked && used);
    const bool streamed = calibrated || prepares;
    if (streamed) plan_.calibration = request_.calibration.over({});
    if (streamed && !calibrated) plan_.calibration->samples = 0;
    plan_.stream.bf16 = request_.bf16.value_or(kernels::fast_bf16(kernels::active()) != nullptr);
    plan_.stream.true_sequential = request_.true_sequential.value_or(both || !coarse);
    plan_.stream.observer = request_.observer.value_or(ObserverOptions{});
    if (request_.memory) plan_.stream.activation_bytes = *request_.memory;
    for (PlannedTensor& planned : plan_.tensors) {
      if (planned.action != PlannedTensor::Action::kQuantize) continue;
      planned.calibrated = streamed && in_stream(planned);
      const AlgorithmChain& own = chain(planned.algorithm);
      if (planned.calibrated || !(own.needs_inputs() || own.prepares())) continue;
      planned.fallback +=
          cat(planned.fallback.empty() ? "" : "; ", planned.algorithm, " needs a linear's inputs: search");
      plan_.warnings.push_back(
          cat(planned.module(), ": ", planned.algorithm, " needs a linear's inputs; search is used"));
      planned.algorithm = "search";
    }
    take_gains();
  }

  // For those that see no inputs and make use of what the norms say.
  void take_gains() {
    std::optional<std::map<std::string, InputFactor, std::less<>>> gains;
    for (const PlannedTensor& planned : plan_.tensors) {
      if (planned.action != PlannedTensor::Action::kQuantize || planned.calibrated ||
          !chain(planned.algorithm).wants_gains())
        continue;
      if (!gains) gains = norm_gains(source_, config_);
      auto found = gains->extract(planned.name);
      if (found && found.mapped().cols == planned.source->cols()) plan_.importance.insert(std::move(found));
    }
  }

  // What is used, with the grids that the algorithms round to.
  void make_chains() {
    for (PlannedTensor& planned : plan_.tensors) {
      if (planned.action != PlannedTensor::Action::kQuantize) continue;
      const AlgorithmChain& algorithm = chain(planned.algorithm);
      planned.spec = with_context([&] { return planned.name; }, [&] { return algorithm.spec_for(*planned.spec); });
      if (!plan_.algorithms.contains(planned.algorithm)) {
        plan_.algorithms[planned.algorithm] =
            std::make_unique<const AlgorithmChain>(planned.algorithm, request_.settings);
      }
    }
    plan_.settings = request_.settings;
  }

  void note_quantized_input() {
    size_t count = 0;
    std::vector<std::string> types;
    for (const auto& [type, tensors] : requantized_) {
      count += tensors;
      types.push_back(type);
    }
    if (count == 0) return;
    if (from_gguf(source_))
      plan_.warnings.push_back(cat("the source stores ", count, " of these tensors as ", join(types, ", "),
                                   "; their dequantized values count as the original"));
    else
      plan_.warnings.push_back(cat(count, " tensors are quantized already (", join(types, ", "),
                                   ") and are quantized again: errors add up; prefer the original model"));
  }

  bool quantizes() const {
    return blocks_ || std::any_of(plan_.tensors.begin(), plan_.tensors.end(), [](const PlannedTensor& planned) {
             return planned.action == PlannedTensor::Action::kQuantize;
           });
  }

  void check_used() const {
    if (!quantizes())
      throw Error(ErrorKind::kUsage,
                  "nothing to quantize; say how with --scheme NAME or --bits N (linears), --embedding or --lm-head "
                  "BITS[:GROUP], or a --rule that matches");
    std::set<std::string> used;
    for (const auto& algorithm : plan_.algorithms)
      used.insert(algorithm.second->names().begin(), algorithm.second->names().end());
    for (const auto& [algorithm, settings] : request_.settings)
      if (!used.contains(algorithm))
        throw Error(ErrorKind::kUsage, cat("--set ", algorithm, ".", settings.begin()->first, ": '", algorithm,
                                           "' is not used here; used: ", join({used.begin(), used.end()}, ", ")));
  }

  const Source& source_;
  const QuantizeRequest& request_;
  const ExporterEntry* format_;
  ModelConfig config_;
  ModuleRules rules_;
  DType scale_dtype_ = DType::kF32;
  std::optional<BlockTypes> blocks_;  // instead of the choices below
  std::optional<SpecChoice> linear_, embedding_, head_;
  bool untied_ = false;
  std::vector<std::string> linear_modules_;
  std::map<std::string, std::unique_ptr<const AlgorithmChain>, std::less<>> chains_;
  std::map<std::string, size_t> fallbacks_;    // text -> tensors
  std::map<std::string, size_t> requantized_;  // stored type -> tensors
  QuantizePlan plan_;
};

}  // namespace

std::string PlannedTensor::module() const {
  return name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : name;
}

const PlannedTensor* QuantizePlan::find(std::string_view name) const {
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [&](const PlannedTensor& planned) { return planned.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

const InputFactor* QuantizePlan::inputs_of(std::string_view name) const {
  const auto found = importance.find(name);
  return found == importance.end() ? nullptr : &found->second;
}

double QuantizePlan::bits_per_weight() const {
  return parameters == 0 ? 0 : 8.0 * static_cast<double>(bytes_after) / static_cast<double>(parameters);
}

// Puts SmoothQuant before the algorithm: where it was asked for, or where the scheme comes with it.
static void add_smoothquant(QuantizeRequest& request) {
  const bool gguf = request.scheme && find_gguf_scheme(*request.scheme);
  const auto linears = gguf ? std::nullopt : linear_choice(request, DType::kF32);
  const bool fixed = linears && linears->activations.mode == ActivationSpec::Mode::kStatic;
  if (fixed && !request.algorithm && !request.smoothquant && !request.stats && request.scheme)
    request.smoothquant = find_preset(*request.scheme).smoothquant;
  if (request.smoothquant) {
    request.algorithm = cat("smoothquant,", request.algorithm.value_or("rtn"));
    request.settings["smoothquant"].emplace("alpha", *request.smoothquant);
  }
  if (fixed && request.algorithm && request.algorithm->find("smoothquant") != std::string::npos)
    request.settings["smoothquant"].emplace("act_static", 1);
}

QuantizePlan make_plan(const Source& source, const QuantizeRequest& request, const ExporterEntry* format) {
  QuantizeRequest complete = request;
  if (request.effort) with_context([] { return "--effort"; }, [&] { apply_effort(*request.effort, complete); });
  add_smoothquant(complete);
  if (request.fp8_cache && format) check_cache_scales(*format);
  if (auto plan = make_onnx_plan(source, complete, format)) return std::move(*plan);
  if (!request.ort.empty())
    throw Error(ErrorKind::kUsage, "--ort: ONNX Runtime runs ONNX models that stay such (--format onnx, onnx-qdq)");
  QuantizePlan plan = Planner(source, complete, format).make();
  plan.accuracy_level = request.accuracy_level;
  plan.tensor_ranges = request.tensor_ranges;
  add_sizes(plan, format);
  if (source.kind() == "onnx") {
    size_t largest = 0;  // a transposed weight stays mapped until all of it has been read
    for (const PlannedTensor& planned : plan.tensors) largest = std::max(largest, planned.source->bytes());
    // The head is rounded when the blocks are done: it comes instead of what they take. Its codes, too, are mapped.
    constexpr size_t kRest = size_t{56} << 20;
    plan.predicted_peak_bytes = std::max(plan.predicted_peak_bytes, kRest + largest + largest / 3);
  }
  if (format && format->check_model != nullptr) format->check_model(output_model(source, plan, *format));
  if (format && format->keeps_codes && plan.bytes_after > plan.bytes_before)
    plan.warnings.push_back(cat("the output is larger than the source (", format_bytes(plan.bytes_before), " -> ",
                                format_bytes(plan.bytes_after), "): what is kept becomes ",
                                float_dtype_name(plan.dtype), "; --embedding 8 or --dtype bf16 makes it smaller"));
  const bool activations = std::any_of(plan.tensors.begin(), plan.tensors.end(), [](const PlannedTensor& planned) {
    return planned.activations.mode != ActivationSpec::Mode::kNone;
  });
  if (format && !format->keeps_codes && activations)
    plan.warnings.push_back(cat("format ", format->name, " holds weights only: nothing will quantize the inputs"));
  return plan;
}

}  // namespace nibble
