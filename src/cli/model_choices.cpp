#include "cli/model_choices.h"

#include <algorithm>

#include "core/text.h"
#include "pipeline/quantize_request.h"

namespace nibble::cli {

ModelChoices RunFlags::choices() const {
  ModelChoices choices;
  if (!dtype.empty()) choices.dtype = parse_float_dtype(dtype);
  choices.scheme = scheme;
  choices.quant = quant;
  if (compute == "int8") choices.compute = Compute::kInt8;
  if (compute == "bf16") choices.compute = Compute::kBf16;
  if (compute == "auto") choices.compute = Compute::kAuto;
  choices.check_compute = check_compute;
  return choices;
}

ModelChoices RunFlags::choices_for_tokens() const {
  ModelChoices result = choices();
  result.copy_dense = true;
  return result;
}

void RunFlags::note_load(const LoadedModel& loaded, const Common& common) const {
  for (const std::string& warning : loaded.warnings) common.note("warning: " + warning);
  if (!check_compute) return;
  if (loaded.checks.empty()) return common.note("compute check: no weight is multiplied with int8 activations");
  const auto worst = std::max_element(loaded.checks.begin(), loaded.checks.end(),
                                      [](const auto& a, const auto& b) { return a.error < b.error; });
  const auto replaced =
      std::count_if(loaded.checks.begin(), loaded.checks.end(), [](const auto& c) { return c.replaced; });
  common.note(cat("compute check: int8 activations move the products of ", loaded.checks.size(), " weights by up to ",
                  format_fixed(100 * worst->error, 2), " % (", worst->name, "); ", replaced,
                  " of them are multiplied in float instead"));
}

void RunFlags::add_checks(const LoadedModel& loaded, OrderedJson& result) const {
  if (!check_compute) return;
  OrderedJson checks = OrderedJson::array();
  for (const ProductCheck& check : loaded.checks)
    checks.push_back({{"name", check.name}, {"error", check.error}, {"replaced", check.replaced}});
  result["compute_check"] = checks;
}

void add_run_flags(CLI::App& verb, RunFlags& flags, const std::string& default_compute,
                   const std::string& default_cache) {
  flags.compute = default_compute;
  flags.kv_cache = default_cache;
  verb.add_option("--dtype", flags.dtype,
                  "store what is not quantized as fp32, bf16 or fp16 (default: as in the file)");
  verb.add_option("--scheme", flags.scheme, "quantize on the fly with this preset (nibble quantize --help lists them)");
  verb.add_option("--quant,--quantize", flags.quant, "quantize on the fly as this torchchat dictionary says");
  verb.add_option(
          "--compute", flags.compute,
          "arithmetic of products with weights: int8 quantizes the activations where the weights are quantized, "
          "bf16 rounds both to bf16; auto: int8 for quantized weights, else as they are stored")
      ->check(CLI::IsMember({"auto", "fp32", "bf16", "int8"}))
      ->capture_default_str();
  verb.add_flag("--check-compute", flags.check_compute,
                "compare int8 with float on a few tokens first, and multiply in float where they differ by over 5 %");
  verb.add_option("--kv-cache", flags.kv_cache, "type of keys and values; q8 and q4 quantize them")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8", "q4"}))
      ->capture_default_str();
}

}  // namespace nibble::cli
