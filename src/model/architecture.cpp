#include "model/architecture.h"

#include <charconv>

#include "core/error.h"

namespace nibble {

#define NIBBLE_ARCHITECTURE(name) extern const Architecture architecture_##name;
#include "model/architectures.def"
#undef NIBBLE_ARCHITECTURE

namespace {

constexpr std::string_view kLayer = "{layer}";

constexpr const Architecture* kArchitectures[] = {
#define NIBBLE_ARCHITECTURE(name) &architecture_##name,
#include "model/architectures.def"
#undef NIBBLE_ARCHITECTURE
};

const Architecture& find_by(std::string_view Architecture::*field, std::string_view wanted) {
  std::string known;
  for (const Architecture* architecture : kArchitectures) {
    const std::string_view value = architecture->*field;
    if (value.empty()) continue;
    if (value == wanted) return *architecture;
    known += cat(known.empty() ? "" : ", ", value);
  }
  throw Error(ErrorKind::kUnsupported, cat("architecture '", wanted, "' is not known; known are ", known));
}

// Does `module` spell `pattern`? {layer} matches a number without leading zeros.
bool matches(std::string_view pattern, std::string_view module, std::optional<size_t>& layer) {
  const size_t hole = pattern.find(kLayer);
  if (hole == std::string_view::npos) return pattern == module;
  const std::string_view before = pattern.substr(0, hole), after = pattern.substr(hole + kLayer.size());
  if (module.size() <= before.size() + after.size() || !module.starts_with(before) || !module.ends_with(after))
    return false;
  const std::string_view digits = module.substr(before.size(), module.size() - before.size() - after.size());
  size_t number = 0;
  const auto [end, failure] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (failure != std::errc() || end != digits.data() + digits.size() || (digits.size() > 1 && digits[0] == '0'))
    return false;
  layer = number;
  return true;
}

std::optional<TensorPlace> find_tensor(const Architecture& architecture, std::string_view tensor,
                                       std::string_view TensorRule::*field) {
  constexpr std::string_view kWeight = ".weight", kBias = ".bias";
  const bool bias = tensor.ends_with(kBias);
  if (!bias && !tensor.ends_with(kWeight)) return std::nullopt;
  const std::string_view module = tensor.substr(0, tensor.size() - (bias ? kBias : kWeight).size());
  for (const TensorRule& rule : architecture.tensors) {
    std::optional<size_t> layer;
    if (matches(rule.*field, module, layer)) return TensorPlace{&rule, layer, bias};
  }
  return std::nullopt;
}

}  // namespace

const TensorRule* Architecture::find(Slot slot) const {
  for (const TensorRule& rule : tensors)
    if (rule.slot == slot) return &rule;
  return nullptr;
}

std::span<const Architecture* const> architectures() { return kArchitectures; }

const Architecture& get_architecture(std::string_view class_name) {
  return find_by(&Architecture::class_name, class_name);
}

const Architecture& get_gguf_architecture(std::string_view gguf_name) {
  return find_by(&Architecture::gguf_name, gguf_name);
}

std::optional<TensorPlace> find_hf_tensor(const Architecture& architecture, std::string_view hf_name) {
  return find_tensor(architecture, hf_name, &TensorRule::hf);
}

std::optional<TensorPlace> find_gguf_tensor(const Architecture& architecture, std::string_view gguf_name) {
  return find_tensor(architecture, gguf_name, &TensorRule::gguf);
}

std::string tensor_name(std::string_view module, std::optional<size_t> layer, bool bias) {
  std::string result(module);
  if (layer)
    if (const size_t hole = result.find(kLayer); hole != std::string::npos)
      result.replace(hole, kLayer.size(), std::to_string(*layer));
  return result + (bias ? ".bias" : ".weight");
}

TensorRole role_of(const Architecture& architecture, std::string_view hf_name) {
  const auto place = find_hf_tensor(architecture, hf_name);
  if (!place) return TensorRole::kOther;
  if (place->bias) return TensorRole::kBias;
  switch (place->rule->slot) {
    case Slot::kEmbedding:
      return TensorRole::kEmbedding;
    case Slot::kLmHead:
      return TensorRole::kLmHead;
    case Slot::kFinalNorm:
    case Slot::kAttentionNorm:
    case Slot::kQueryNorm:
    case Slot::kKeyNorm:
    case Slot::kMlpNorm:
      return TensorRole::kNorm;
    case Slot::kQuery:
    case Slot::kKey:
    case Slot::kValue:
    case Slot::kAttentionOutput:
    case Slot::kGate:
    case Slot::kUp:
    case Slot::kDown:
      return TensorRole::kLinear;
  }
  return TensorRole::kOther;
}

std::string_view name(TensorRole role) {
  switch (role) {
    case TensorRole::kEmbedding:
      return "embedding";
    case TensorRole::kLmHead:
      return "lm_head";
    case TensorRole::kLinear:
      return "linear";
    case TensorRole::kNorm:
      return "norm";
    case TensorRole::kBias:
      return "bias";
    case TensorRole::kOther:
      break;
  }
  return "other";
}

}  // namespace nibble
