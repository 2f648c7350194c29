#include "export/gguf_scheme.h"

#include "core/text.h"

namespace nibble {
namespace {

// Numbers of llama.cpp's enum llama_ftype.
constexpr GgufScheme kSchemes[] = {
    {"F32", 0, DType::kF32},        {"F16", 1, DType::kF16},        {"BF16", 32, DType::kBF16},
    {"Q4_0", 2, DType::kQ4_0},      {"Q4_1", 3, DType::kQ4_1},      {"Q5_0", 8, DType::kQ5_0},
    {"Q5_1", 9, DType::kQ5_1},      {"Q8_0", 7, DType::kQ8_0},      {"Q2_K_S", 21, DType::kQ2_K},
    {"Q2_K", 10, DType::kQ2_K},     {"Q3_K_S", 11, DType::kQ3_K},   {"Q3_K_M", 12, DType::kQ3_K},
    {"Q3_K_L", 13, DType::kQ3_K},   {"Q4_K_S", 14, DType::kQ4_K},   {"Q4_K_M", 15, DType::kQ4_K},
    {"Q5_K_S", 16, DType::kQ5_K},   {"Q5_K_M", 17, DType::kQ5_K},   {"Q6_K", 18, DType::kQ6_K},
    {"IQ4_NL", 25, DType::kIQ4_NL}, {"IQ4_XS", 30, DType::kIQ4_XS},
};

// The first and last eighth of the blocks, and every third between.
bool uses_more_bits(size_t layer, size_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

DType value_type(const GgufScheme& scheme, const ModelConfig& config, size_t layer) {
  const std::string_view name = scheme.name;
  const bool shared = config.heads / config.kv_heads >= 4;  // a small matrix that many heads read
  if (name == "Q2_K") return shared ? DType::kQ4_K : DType::kQ3_K;
  if (name == "Q2_K_S" && shared) return DType::kQ4_K;
  if (name == "Q3_K_M") return layer < 2 ? DType::kQ5_K : DType::kQ4_K;
  if (name == "Q3_K_L") return DType::kQ5_K;
  if ((name == "IQ4_NL" || name == "IQ4_XS") && shared) return DType::kQ5_K;
  if ((name == "Q4_K_M" || name == "Q5_K_M") && uses_more_bits(layer, config.layers)) return DType::kQ6_K;
  if (name == "Q4_K_S" && layer < 4) return DType::kQ5_K;
  return scheme.base;
}

DType down_type(const GgufScheme& scheme, const ModelConfig& config, size_t layer, bool importance) {
  const std::string_view name = scheme.name;
  const bool early = layer < config.layers / 8;
  if (name == "Q2_K") return DType::kQ3_K;
  if (name == "Q2_K_S" && early) return DType::kQ4_K;
  if (name == "Q3_K_M") return layer < config.layers / 16 ? DType::kQ5_K : DType::kQ4_K;
  if (name == "Q3_K_L") return DType::kQ5_K;
  if ((name == "Q4_K_M" || name == "Q5_K_M") && uses_more_bits(layer, config.layers)) return DType::kQ6_K;
  if (name == "Q4_K_S" && early) return DType::kQ5_K;
  if ((name == "IQ4_NL" || name == "IQ4_XS") && early && !importance) return DType::kQ5_K;
  if (name == "Q4_0" && early && importance) return DType::kQ4_1;
  if (name == "Q5_0" && early && importance) return DType::kQ5_1;
  return scheme.base;
}

}  // namespace

const GgufScheme* find_gguf_scheme(std::string_view name) {
  const std::string key = lower(name);
  for (const GgufScheme& scheme : kSchemes)
    if (lower(scheme.name) == key) return &scheme;
  if (key == "q3_k" || key == "q4_k" || key == "q5_k") return find_gguf_scheme(key + "_m");
  return nullptr;
}

std::vector<std::string> gguf_scheme_names() {
  std::vector<std::string> names;
  for (const GgufScheme& scheme : kSchemes) names.emplace_back(scheme.name);
  return names;
}

DType gguf_mix(const GgufScheme& scheme, const ModelConfig& config, const GgufMatrix& matrix) {
  const std::string_view name = scheme.name;
  switch (matrix.slot) {
    case Slot::kLmHead:
      break;
    case Slot::kEmbedding:
      if (config.tied_embeddings) break;
      return scheme.base;
    case Slot::kValue:
      return value_type(scheme, config, matrix.layer);
    case Slot::kDown:
      return down_type(scheme, config, matrix.layer, matrix.importance);
    case Slot::kAttentionOutput:
      if (name == "Q2_K") return DType::kQ3_K;
      if (name == "Q3_K_M") return DType::kQ4_K;
      if (name == "Q3_K_L") return DType::kQ5_K;
      return scheme.base;
    default:
      return scheme.base;
  }
  // The matrix that makes the logits.
  if (scheme.base == DType::kQ8_0 || matrix.cols % info(scheme.base).block != 0) return DType::kQ8_0;
  return DType::kQ6_K;
}

std::optional<DType> gguf_type_of_bits(int bits) {
  switch (bits) {
    case 2:
      return DType::kQ2_K;
    case 3:
      return DType::kQ3_K;
    case 4:
      return DType::kQ4_K;
    case 5:
      return DType::kQ5_K;
    case 6:
      return DType::kQ6_K;
    case 8:
      return DType::kQ8_0;
    default:
      return std::nullopt;
  }
}

DType gguf_fitting_type(DType type, size_t cols) {
  if (cols % info(type).block == 0) return type;
  switch (type) {
    case DType::kIQ4_XS:
      type = DType::kIQ4_NL;
      break;
    case DType::kQ2_K:
    case DType::kQ3_K:
      type = DType::kQ4_0;
      break;
    case DType::kQ4_K:
      type = DType::kQ5_0;
      break;
    case DType::kQ5_K:
      type = DType::kQ5_1;
      break;
    case DType::kQ6_K:
      type = DType::kQ8_0;
      break;
    default:
      break;
  }
  return cols % info(type).block == 0 ? type : DType::kF16;
}

}  // namespace nibble
