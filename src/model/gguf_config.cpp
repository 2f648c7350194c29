#include "model/gguf_config.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <set>

#include "model/config.h"
#include "model/rope.h"
#include "model/source_floats.h"

namespace nibble {
namespace {

constexpr std::string_view kRopeFactors = "rope_freqs.weight";
constexpr size_t kLlama3OriginalContext = 8192;

// A float32 widened to double, back to the decimal that it was written as: 9.99999975e-06 is 1e-05.
double shortest(double value) {
  const auto narrow = static_cast<float>(value);
  if (static_cast<double>(narrow) != value || !std::isfinite(narrow)) return value;
  char text[32];
  const auto [end, failure] = std::to_chars(text, text + sizeof text, narrow);
  double result = value;
  if (failure == std::errc()) std::from_chars(text, end, result);
  return result;
}

class Metadata {
 public:
  explicit Metadata(const Gguf& gguf, std::string_view architecture) : gguf_(gguf), prefix_(cat(architecture, ".")) {}

  std::optional<Json> find_number(std::string_view key) const {
    const std::string full = prefix_ + std::string(key);
    const GgufValue* value = gguf_.find(full);
    if (!value) return std::nullopt;
    if (std::holds_alternative<uint64_t>(value->data) || std::holds_alternative<int64_t>(value->data))
      return Json(gguf_.find_unsigned(full).value());
    return Json(shortest(gguf_.find_number(full).value()));
  }
  std::optional<std::string_view> find_string(std::string_view key) const {
    return gguf_.find_string(prefix_ + std::string(key));
  }
  const std::string& prefix() const { return prefix_; }

 private:
  const Gguf& gguf_;
  std::string prefix_;
};

// Llama 3's scaling as converters store it: one divisor of each frequency. Its parameters are found again by trying:
// the lowest frequency shows the factor, and the rest must agree.
Json recover_llama3(const TensorView& divisors, const RopeConfig& base, std::span<const size_t> contexts) {
  std::vector<float> stored(element_count(divisors.shape));
  floats_from_bytes(divisors.dtype, divisors.bytes.data(), stored.size(), stored.data(), kRopeFactors);
  if (stored.size() != base.dims / 2)
    throw Error(ErrorKind::kCorrupt,
                cat("tensor ", kRopeFactors, " has ", stored.size(), " elements, expected ", base.dims / 2));
  const std::vector<double> plain = rope_frequencies(base);
  for (const size_t context : contexts) {
    RopeConfig guess = base;
    guess.kind = RopeConfig::Kind::kLlama3;
    guess.factor = shortest(stored.back());
    guess.original_context = context;
    const std::vector<double> scaled = rope_frequencies(guess);
    bool same = true;
    for (size_t i = 0; i < plain.size() && same; ++i)
      same = std::abs(scaled[i] * static_cast<double>(stored[i]) / plain[i] - 1.0) < 1e-3;
    if (same)
      return {{"rope_type", "llama3"},
              {"factor", guess.factor},
              {"low_freq_factor", guess.low_freq_factor},
              {"high_freq_factor", guess.high_freq_factor},
              {"original_max_position_embeddings", context}};
  }
  throw Error(ErrorKind::kUnsupported,
              cat("the frequency factors in tensor ", kRopeFactors, " are not those of Llama 3"));
}

std::optional<Json> rope_scaling(const Gguf& gguf, const Metadata& metadata, const Json& config) {
  const std::string type(metadata.find_string("rope.scaling.type").value_or("none"));
  const auto factor = metadata.find_number("rope.scaling.factor");
  const auto context = metadata.find_number("rope.scaling.original_context_length");
  for (const GgufTensor& tensor : gguf.tensors()) {
    if (tensor.name != kRopeFactors) continue;
    const ModelConfig model = parse_config(config);
    std::vector<size_t> contexts = {kLlama3OriginalContext};
    if (context && context->is_number_unsigned()) contexts.insert(contexts.begin(), context->get<size_t>());
    return recover_llama3(tensor.view, model.rope, contexts);
  }
  if (type == "none") return std::nullopt;
  if (type != "linear" && type != "yarn")
    throw Error(ErrorKind::kUnsupported,
                cat(metadata.prefix(), "rope.scaling.type is '", type, "'; known are none, linear, yarn"));
  Json scaling = {{"rope_type", type}};
  if (factor) scaling["factor"] = *factor;
  if (type == "yarn") {
    if (context) scaling["original_max_position_embeddings"] = *context;
    constexpr std::pair<std::string_view, std::string_view> keys[] = {{"rope.scaling.yarn_beta_fast", "beta_fast"},
                                                                      {"rope.scaling.yarn_beta_slow", "beta_slow"}};
    for (const auto& [from, to] : keys)
      if (const auto value = metadata.find_number(from)) scaling[std::string(to)] = *value;
    // GGUF's factor multiplies the one that YaRN derives from the stretch; transformers' replaces it.
    if (const auto extra = metadata.find_number("rope.scaling.attn_factor");
        extra && factor && extra->get<double>() != 1.0)
      scaling["attention_factor"] = extra->get<double>() * (0.1 * std::log(std::max(1.0, factor->get<double>())) + 1.0);
  }
  return scaling;
}

bool is_required(std::string_view key) {
  return key == "num_hidden_layers" || key == "hidden_size" || key == "intermediate_size" ||
         key == "num_attention_heads";
}

}  // namespace

bool is_gguf_config_tensor(std::string_view name) { return name == kRopeFactors; }

Json config_from_gguf(const Gguf& gguf, const Architecture& architecture) {
  const Metadata metadata(gguf, architecture.gguf_name);
  Json config = parse_json(architecture.defaults, architecture.name);
  config["architectures"] = {architecture.class_name};
  config["model_type"] = architecture.name;
  config["hidden_act"] = "silu";
  config["dtype"] = "float32";
  for (const auto& [from, to] : architecture.gguf_keys)
    if (const auto value = metadata.find_number(from)) config[std::string(to)] = *value;
  for (const auto& [from, to] : architecture.gguf_keys)
    if (is_required(to) && !config.contains(to))
      throw Error(ErrorKind::kCorrupt, cat("metadata key ", metadata.prefix(), from, " is missing"));

  std::set<std::pair<const TensorRule*, bool>> present;  // (module, is it its bias?)
  for (const GgufTensor& tensor : gguf.tensors()) {
    const auto place = find_gguf_tensor(architecture, tensor.name);
    if (!place) continue;
    present.emplace(place->rule, place->bias);
    // The table of tokens may be longer or shorter than the matrix that is computed with.
    if (place->rule->slot == Slot::kEmbedding && !place->bias && !tensor.view.shape.empty())
      config["vocab_size"] = tensor.view.shape[0];
  }
  if (!config.contains("vocab_size"))
    throw Error(ErrorKind::kCorrupt, cat("tensor ", tensor_name(architecture.find(Slot::kEmbedding)->gguf, {}, false),
                                         " is missing; does the file hold only a vocabulary?"));
  const TensorRule* head = architecture.find(Slot::kLmHead);
  config["tie_word_embeddings"] = !present.contains({head, false});
  for (const TensorRule& rule : architecture.tensors)
    if (!rule.bias.key.empty()) config[std::string(rule.bias.key)] = false;
  for (const TensorRule& rule : architecture.tensors)
    if (!rule.bias.key.empty() && present.contains({&rule, true})) config[std::string(rule.bias.key)] = true;

  // What a GGUF leaves out has a definite meaning, which is not always transformers' default.
  if (!metadata.find_number("attention.head_count_kv")) config["num_key_value_heads"] = config["num_attention_heads"];
  if (!metadata.find_number("attention.key_length")) {
    const auto heads = config["num_attention_heads"].get<double>(), hidden = config["hidden_size"].get<double>();
    if (heads >= 1 && std::fmod(hidden, heads) == 0 && hidden / heads < 1e6)
      config["head_dim"] = static_cast<size_t>(hidden / heads);
  }
  if (const auto window = metadata.find_number("attention.sliding_window"); !window || *window == Json(0u))
    config["sliding_window"] = nullptr;
  else
    config["use_sliding_window"] = true;
  if (const auto rotated = metadata.find_number("rope.dimension_count");
      rotated && config.contains("head_dim") && *rotated != config["head_dim"])
    throw Error(ErrorKind::kUnsupported,
                cat(metadata.prefix(), "rope.dimension_count is ", rotated->dump(), " of ", config["head_dim"].dump(),
                    " dimensions; only whole heads rotate in this architecture"));
  if (const auto scaling = rope_scaling(gguf, metadata, config)) config["rope_scaling"] = *scaling;

  constexpr std::pair<std::string_view, std::string_view> tokens[] = {
      {"tokenizer.ggml.bos_token_id", "bos_token_id"},
      {"tokenizer.ggml.eos_token_id", "eos_token_id"},
      {"tokenizer.ggml.padding_token_id", "pad_token_id"}};
  for (const auto& [from, to] : tokens)
    if (const auto id = gguf.find_unsigned(from)) config[std::string(to)] = *id;
  if (const auto turn = gguf.find_unsigned("tokenizer.ggml.eot_token_id");
      turn && config.contains("eos_token_id") && config["eos_token_id"] != Json(*turn))
    config["eos_token_id"] = {config["eos_token_id"], *turn};
  return config;
}

}  // namespace nibble
