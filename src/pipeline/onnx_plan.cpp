#include "pipeline/onnx_plan.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/text.h"
#include "kernels/bf16.h"
#include "kernels/kernels.h"
#include "model/onnx_source.h"
#include "pipeline/effort.h"
#include "pipeline/onnx_feeds.h"
#include "pipeline/plan_spec.h"
#include "pipeline/rules.h"

namespace nibble {
namespace {

bool stays_onnx(const std::vector<const ExporterEntry*>& formats) {
  return std::all_of(formats.begin(), formats.end(),
                     [](const ExporterEntry* format) { return format->name.starts_with("onnx"); });
}

// Does anything ask for ranges of inputs that calibration finds?
bool static_inputs(const QuantizeRequest& request) {
  constexpr auto kStatic = ActivationSpec::Mode::kStatic;
  const auto choice = linear_choice(request, DType::kF32);
  return (choice && choice->activations.mode == kStatic) ||
         std::any_of(request.rules.begin(), request.rules.end(),
                     [&](const Rule& rule) { return rule.change.act == kStatic; });
}

// Of products, from somewhere.
bool needs_inputs(const QuantizeRequest& request) {
  if (!request.calibration.empty() || !request.ort.empty() || static_inputs(request) || request.smoothquant.has_value())
    return true;
  QuantizeRequest complete = request;
  if (request.effort) with_context([] { return "--effort"; }, [&] { apply_effort(*request.effort, complete); });
  std::set<std::string> names = {complete.algorithm.value_or("rtn")};
  for (const Rule& rule : complete.rules)
    if (rule.algorithm) names.insert(*rule.algorithm);
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return AlgorithmChain(name, complete.settings).needs_inputs(); });
}

class OnnxPlanner {
 public:
  OnnxPlanner(const OnnxSource& source, const QuantizeRequest& request, const ExporterEntry* format)
      : source_(source), request_(request), format_(format), rules_(request.skip, request.rules) {
    if (request.dtype)
      throw Error(ErrorKind::kUsage, "--dtype: what is not quantized stays as it is in an ONNX graph; leave it out");
    plan_.accuracy_level = request.accuracy_level;
    plan_.tensor_ranges = request.tensor_ranges;
    if (request.embedding && !request.embedding->keep) {
      TableChoice table = *request.embedding;
      if (!table.group) table.group = kTableGroup;
      embedding_ = table;
    }
  }

  QuantizePlan make() {
    const OnnxWeight* last = last_product(source_.weights());
    for (const auto& tensor : source_.tensors()) add(*tensor, last);
    for (std::string& line : rules_.unmatched()) plan_.warnings.push_back(std::move(line));
    for (const auto& [fallback, count] : fallbacks_)
      plan_.warnings.push_back(cat(fallback, " (", count, count == 1 ? " tensor)" : " tensors)"));
    choose_calibration();
    if (plan_.algorithms.empty())
      throw Error(
          ErrorKind::kUsage,
          cat(source_.path().string(), ": nothing to quantize among its ", source_.tensors().size(),
              " constant weights of MatMul, Gemm and Gather; say how with --scheme NAME or --bits N, or a --rule "
              "that matches"));
    for (const auto& [algorithm, settings] : request_.settings)
      if (!used_.contains(algorithm))
        throw Error(ErrorKind::kUsage,
                    cat("--set ", algorithm, ".", settings.begin()->first, ": '", algorithm, "' is not used here"));
    plan_.settings = request_.settings;
    add_rest();
    const size_t rest_before = plan_.bytes_before;
    add_sizes(plan_, format_);
    size_t largest = 0;  // a transposed weight stays mapped until all of it has been read
    for (const PlannedTensor& planned : plan_.tensors)
      if (planned.action == PlannedTensor::Action::kQuantize) largest = std::max(largest, planned.source->bytes());
    const auto inputs = static_cast<size_t>(source_.model().graph().input_size());
    plan_.predicted_peak_bytes += largest + rest_before / 64 + onnx_calibration_bytes(plan_, inputs);
    return std::move(plan_);
  }

 private:
  static constexpr size_t kTableGroup = 32;

  void add(const StoredTensor& tensor, const OnnxWeight* last) {
    const OnnxWeight& weight = *source_.place(tensor.name()).weight;
    PlannedTensor planned;
    planned.source = &tensor;
    planned.name = tensor.name();
    planned.role = weight.is_table() ? TensorRole::kEmbedding
                   : &weight == last ? TensorRole::kLmHead
                                     : TensorRole::kLinear;
    planned.dtype = tensor.dtype();
    decide(planned, weight);
    // What stays is copied with the rest of the graph.
    plan_.parameters += element_count(tensor.shape());
    plan_.tensors.push_back(std::move(planned));
  }

  std::optional<SpecChoice> base_choice(const PlannedTensor& planned, std::string& reason) const {
    const DType dtype = planned.dtype;
    if (planned.role == TensorRole::kEmbedding) {
      reason = "embedding kept";
      return embedding_ ? std::optional(table_choice(*embedding_, "--embedding", dtype)) : std::nullopt;
    }
    if (planned.role == TensorRole::kLmHead && request_.lm_head) {
      reason = "--lm-head keep";
      return request_.lm_head->keep ? std::nullopt : std::optional(table_choice(*request_.lm_head, "--lm-head", dtype));
    }
    if (planned.role == TensorRole::kLmHead && !request_.last_matmul) {
      reason = "--no-last-matmul";
      return std::nullopt;
    }
    reason = "no scheme for linears";
    return linear_choice(request_, dtype);
  }

  void decide(PlannedTensor& planned, const OnnxWeight& weight) {
    const std::string module = planned.module();
    if (!weight.obstacle.empty()) return keep(planned, weight.obstacle);
    const std::string* skipped = rules_.skipped(module);
    const Rule* rule = rules_.rule(module);
    if (skipped) return keep(planned, cat("--skip '", *skipped, "'"));
    std::string reason;
    std::optional<SpecChoice> choice = base_choice(planned, reason);
    if (rule) choice = apply_rule(*rule, choice ? choice : linear_choice(request_, planned.dtype), planned.dtype);
    if (!choice) return keep(planned, reason);
    const FittedGroup fitted =
        with_context([&] { return planned.name; },
                     [&] { return fit_group(*choice, planned.source->cols(), request_.allow_fallback); });
    planned.fallback = fitted.fallback;
    if (!fitted.fallback.empty()) ++fallbacks_[fitted.fallback];
    if (!fitted.spec) return keep(planned, choice->reason);
    planned.action = PlannedTensor::Action::kQuantize;
    planned.activations = planned.role == TensorRole::kEmbedding ? ActivationSpec{} : choice->activations;
    if (is_static(planned) && format_ && format_->asymmetric_inputs) planned.activations.symmetric = false;
    planned.reason = choice->reason;
    planned.algorithm = rule && rule->algorithm ? *rule->algorithm : request_.algorithm.value_or("rtn");
    auto& chain = plan_.algorithms[planned.algorithm];
    if (!chain) {
      chain = std::make_unique<const AlgorithmChain>(planned.algorithm, request_.settings);
      used_.insert(chain->names().begin(), chain->names().end());
    }
    planned.spec = with_context([&] { return planned.name; }, [&] { return chain->spec_for(*fitted.spec); });
  }

  // Tables have no inputs: what needs some becomes search there.
  void replace_on_tables() {
    for (PlannedTensor& planned : plan_.tensors) {
      if (planned.role != TensorRole::kEmbedding || planned.action != PlannedTensor::Action::kQuantize) continue;
      if (!plan_.algorithms.find(planned.algorithm)->second->needs_inputs()) continue;
      planned.fallback +=
          cat(planned.fallback.empty() ? "" : "; ", planned.algorithm, " needs a product's inputs: search");
      plan_.warnings.push_back(cat(planned.name, ": ", planned.algorithm, " needs a product's inputs; search is used"));
      planned.algorithm = "search";
      auto& chain = plan_.algorithms[planned.algorithm];
      if (!chain) chain = std::make_unique<const AlgorithmChain>(planned.algorithm, request_.settings);
      planned.spec = with_context([&] { return planned.name; }, [&] { return chain->spec_for(*planned.spec); });
    }
  }

  void choose_calibration() {
    replace_on_tables();
    const bool asked = !request_.calibration.empty() || !request_.ort.empty();
    bool needed = false, used = false, fixed = false, scaled = false;
    for (const PlannedTensor& planned : plan_.tensors) {
      if (planned.role == TensorRole::kEmbedding || planned.action != PlannedTensor::Action::kQuantize) continue;
      fixed |= is_static(planned);
      const AlgorithmChain& chain = *plan_.algorithms.find(planned.algorithm)->second;
      needed |= chain.needs_inputs();
      used |= chain.input_use() != InputUse::kNone || chain.prepares();
      scaled |= chain.prepares();
      if (chain.wants_float_inputs(*planned.spec))
        throw Error(ErrorKind::kUsage, "gptq.alpha is for decoders that nibble knows: leave it out");
    }
    needed |= fixed;
    if (request_.observer && !fixed)
      throw Error(ErrorKind::kUsage, "--act-observer chooses ranges of static activations: add --act static");
    if (request_.stats)
      throw Error(ErrorKind::kUsage, "--stats names tensors of decoders that nibble knows; use --calib");
    if (request_.calibration.samples == size_t{0})
      throw Error(ErrorKind::kUsage, "--samples should be 1 or more, found 0");
    if (asked && !needed && !used && !plan_.algorithms.empty())
      throw Error(ErrorKind::kUsage,
                  "none of the algorithms used here looks at activations: leave out the calibration options, or choose "
                  "another --algorithm (see --help-algorithms)");
    const bool looks = needed || (asked && used);
    if (!looks && !scaled) return;
    plan_.calibration = request_.calibration.over({});
    if (looks)
      check_onnx_feeds(source_, *plan_.calibration);
    else
      plan_.calibration->samples = 0;  // columns are scaled by what the weights show
    plan_.onnx_runtime = request_.ort;
    plan_.stream.bf16 = request_.bf16.value_or(kernels::fast_bf16(kernels::active()) != nullptr);
    plan_.stream.true_sequential = request_.true_sequential.value_or(true);
    plan_.stream.observer = request_.observer.value_or(ObserverOptions{});
    if (request_.memory) plan_.stream.activation_bytes = *request_.memory;
    for (PlannedTensor& planned : plan_.tensors)
      planned.calibrated = planned.action == PlannedTensor::Action::kQuantize && planned.role != TensorRole::kEmbedding;
  }

  static bool is_static(const PlannedTensor& planned) {
    return planned.activations.mode == ActivationSpec::Mode::kStatic;
  }

  static void keep(PlannedTensor& planned, std::string reason) { planned.reason = std::move(reason); }

  // The initializers that no planned tensor stands for.
  void add_rest() {
    std::set<const onnx::TensorProto*> planned;
    for (const PlannedTensor& each : plan_.tensors) planned.insert(source_.place(each.name).weight->tensor);
    for (const onnx::TensorProto& initializer : source_.model().graph().initializer()) {
      if (planned.contains(&initializer) || initializer.data_type() == onnx_type::kString) continue;
      const OnnxTensor tensor = source_.model().tensor(initializer);
      plan_.bytes_before += tensor.bytes.size();
      plan_.bytes_after += tensor.bytes.size();
      plan_.parameters += element_count(tensor.shape);
    }
  }

  const OnnxSource& source_;
  const QuantizeRequest& request_;
  const ExporterEntry* format_;
  ModuleRules rules_;
  std::optional<TableChoice> embedding_;
  std::map<std::string, size_t> fallbacks_;
  std::set<std::string> used_;
  QuantizePlan plan_;
};

}  // namespace

std::unique_ptr<Source> open_to_quantize(const std::filesystem::path& path, const QuantizeRequest& request,
                                         const std::vector<const ExporterEntry*>& formats) {
  std::error_code failure;
  if (!std::filesystem::exists(path, failure) || !is_onnx(path) || !stays_onnx(formats)) return Source::open(path);
  const bool runtime = !request.ort.empty() || names_feeds(request.calibration.from.value_or(""));
  if (runtime || !needs_inputs(request)) return open_onnx_graph(path);
  try {
    return Source::open(path);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported) throw;
    return open_onnx_graph(path);
  }
}

std::optional<QuantizePlan> make_onnx_plan(const Source& source, const QuantizeRequest& request,
                                           const ExporterEntry* format) {
  const auto* onnx = dynamic_cast<const OnnxSource*>(&source);
  if (!onnx || !onnx->any_graph()) return std::nullopt;
  return OnnxPlanner(*onnx, request, format).make();
}

}  // namespace nibble
