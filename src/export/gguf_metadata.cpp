#include "export/gguf_metadata.h"

#include <algorithm>
#include <cmath>

#include "core/checked.h"
#include "export/gguf_vocabulary.h"
#include "model/rope.h"

namespace nibble {
namespace {

constexpr uint32_t kQuantizationVersion = 2;  // ggml's GGML_QNT_VERSION

uint32_t u32(size_t value) { return checked_cast<uint32_t>(value, "a size"); }

// About the file, not the model.
bool is_about_file(std::string_view key) {
  return key == "general.file_type" || key == "general.quantization_version" || key == "general.alignment" ||
         key.starts_with("split.") || key.starts_with("quantize.");
}

bool is_float_key(std::string_view key) {
  return key.ends_with("epsilon") || key.ends_with("freq_base") || key.ends_with("scale") || key.ends_with("factor") ||
         key.ends_with("softcapping");
}

std::string_view gguf_name(const Architecture& architecture) {
  // Families without a name of their own are Llama's in GGUF.
  return architecture.gguf_name.empty() ? std::string_view("llama") : architecture.gguf_name;
}

void add_rope(const ModelConfig& config, const std::string& prefix, GgufMetadata& metadata) {
  const RopeConfig& rope = config.rope;
  metadata.set_f32(prefix + "rope.freq_base", static_cast<float>(rope.theta));
  metadata.set_u32(prefix + "rope.dimension_count", u32(rope.dims));
  if (rope.kind == RopeConfig::Kind::kLinear) {
    metadata.set_string(prefix + "rope.scaling.type", "linear");
    metadata.set_f32(prefix + "rope.scaling.factor", static_cast<float>(rope.factor));
  } else if (rope.kind == RopeConfig::Kind::kLlama3) {
    // The scaling itself is rope_freqs.weight; this lets our reader find its parameters again.
    metadata.set_u32(prefix + "rope.scaling.original_context_length", u32(rope.original_context));
  } else if (rope.kind == RopeConfig::Kind::kYarn) {
    metadata.set_string(prefix + "rope.scaling.type", "yarn");
    metadata.set_f32(prefix + "rope.scaling.factor", static_cast<float>(rope.factor));
    metadata.set_u32(prefix + "rope.scaling.original_context_length", u32(rope.original_context));
    metadata.set_f32(prefix + "rope.scaling.yarn_beta_fast", static_cast<float>(rope.beta_fast));
    metadata.set_f32(prefix + "rope.scaling.yarn_beta_slow", static_cast<float>(rope.beta_slow));
    // GGUF's factor multiplies the one that YaRN derives from the stretch.
    const double extra = rope.attention_factor / (0.1 * std::log(std::max(1.0, rope.factor)) + 1.0);
    if (std::abs(extra - 1.0) > 1e-6) metadata.set_f32(prefix + "rope.scaling.attn_factor", static_cast<float>(extra));
  }
}

void add_architecture(const OutputModel& model, const ModelConfig& config, GgufMetadata& metadata) {
  const Architecture& architecture = *config.architecture;
  const std::string prefix = cat(gguf_name(architecture), ".");
  // What the family's table knows; below, what config.json may have left out.
  for (const auto& [key, from] : architecture.gguf_keys) {
    const Json* value = find(model.source.config(), from);
    if (!value || !value->is_number() || key == "attention.sliding_window") continue;
    if (is_float_key(key))
      metadata.set_f32(prefix + std::string(key), value->get<float>());
    else
      metadata.set_u32(prefix + std::string(key), u32(value->get<size_t>()));
  }
  metadata.set_u32(prefix + "vocab_size", u32(config.vocab_size));
  metadata.set_u32(prefix + "context_length", u32(config.max_positions));
  metadata.set_u32(prefix + "attention.head_count_kv", u32(config.kv_heads));
  metadata.set_u32(prefix + "attention.key_length", u32(config.head_dim));
  metadata.set_u32(prefix + "attention.value_length", u32(config.head_dim));
  metadata.set_f32(prefix + "attention.layer_norm_rms_epsilon", config.norm_eps);
  const auto window = std::max_element(config.window.begin(), config.window.end());
  if (window != config.window.end() && *window != 0)
    metadata.set_u32(prefix + "attention.sliding_window", u32(*window));
  add_rope(config, prefix, metadata);
}

}  // namespace

std::vector<float> gguf_rope_divisors(const ModelConfig& config) {
  if (config.rope.kind != RopeConfig::Kind::kLlama3) return {};
  RopeConfig plain = config.rope;
  plain.kind = RopeConfig::Kind::kDefault;
  const std::vector<double> from = rope_frequencies(plain), to = rope_frequencies(config.rope);
  std::vector<float> divisors(from.size());
  for (size_t i = 0; i < from.size(); ++i) divisors[i] = static_cast<float>(from[i] / to[i]);
  return divisors;
}

GgufMetadata gguf_metadata(const OutputModel& model, const ModelConfig& config, uint32_t file_type) {
  GgufMetadata metadata;
  if (const Gguf* gguf = model.source.gguf()) {
    for (const auto& [key, value] : gguf->metadata())
      if (!is_about_file(key)) metadata.set_stored(key, value.stored);
  } else {
    metadata.set_string("general.architecture", gguf_name(*config.architecture));
    metadata.set_string("general.type", "model");
    metadata.set_string("general.name",
                        std::filesystem::absolute(model.source.path()).lexically_normal().stem().string());
    add_architecture(model, config, metadata);
    add_gguf_vocabulary(model.source, config.vocab_size, metadata);
  }
  metadata.set_u32("general.quantization_version", kQuantizationVersion);
  metadata.set_u32("general.file_type", file_type);
  return metadata;
}

}  // namespace nibble
