#include "cli/model_choices.h"

#include "pipeline/quantize_request.h"

namespace nibble::cli {

ModelChoices RunFlags::choices() const {
  ModelChoices choices;
  if (!dtype.empty()) choices.dtype = parse_float_dtype(dtype);
  choices.scheme = scheme;
  choices.quant = quant;
  if (compute == "int8") choices.compute = Compute::kInt8;
  if (compute == "bf16") choices.compute = Compute::kBf16;
  return choices;
}

ModelChoices RunFlags::choices_for_tokens() const {
  ModelChoices result = choices();
  result.copy_dense = true;
  return result;
}

void add_run_flags(CLI::App& verb, RunFlags& flags, const std::string& default_cache) {
  flags.kv_cache = default_cache;
  verb.add_option("--dtype", flags.dtype,
                  "store what is not quantized as fp32, bf16 or fp16 (default: as in the file)");
  verb.add_option("--scheme", flags.scheme, "quantize on the fly with this preset (nibble quantize --help lists them)");
  verb.add_option("--quant,--quantize", flags.quant, "quantize on the fly as this torchchat dictionary says");
  verb.add_option(
          "--compute", flags.compute,
          "arithmetic of products with weights: int8 quantizes the activations where the weights are quantized, "
          "bf16 rounds both to bf16")
      ->check(CLI::IsMember({"fp32", "bf16", "int8"}))
      ->capture_default_str();
  verb.add_option("--kv-cache", flags.kv_cache, "type of keys and values; q8 and q4 quantize them")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8", "q4"}))
      ->capture_default_str();
}

}  // namespace nibble::cli
