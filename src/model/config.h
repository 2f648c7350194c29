#pragma once
#include <cstddef>
#include <vector>

#include "core/json.h"
#include "model/architecture.h"

namespace nibble {

// Rotary position embedding (Su et al. 2021) and its length extensions.
struct RopeConfig {
  enum class Kind : uint8_t {
    kDefault,
    kLinear,  // positions divided by factor (Chen et al. 2023)
    kLlama3,  // low frequencies divided by factor, a ramp in between (Llama 3.1's model card code)
    kYarn,    // Peng et al. 2023, "NTK by parts" and the attention factor
  };
  Kind kind = Kind::kDefault;
  double theta = 10000.0;
  double factor = 1.0;
  size_t original_context = 0;                           // llama3, yarn: tokens the model was first trained on
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0, beta_slow = 1.0;  // yarn: rotations within original_context where the ramp ends and starts
  bool truncate = true;                      // yarn: the ramp's ends are whole dimensions
  double attention_factor = 1.0;             // yarn: cos and sin are multiplied by it
  size_t dims = 0;                           // leading dimensions of a head that rotate; even
};

// Everything that the decoder needs to know of a config.json. All numbers are in range and fit together.
struct ModelConfig {
  const Architecture* architecture = nullptr;  // never null after parse_config()
  size_t vocab_size = 0;
  size_t hidden_size = 0;
  size_t intermediate_size = 0;
  size_t layers = 0;
  size_t heads = 0;
  size_t kv_heads = 0;       // divides heads
  size_t head_dim = 0;       // even
  size_t max_positions = 0;  // tokens that the model was made for; not a limit of the decoder
  float norm_eps = 1e-6f;
  float attention_scale = 0.0f;  // scores are scaled by it: 1 / sqrt(head_dim)
  bool tied_embeddings = false;
  RopeConfig rope;
  std::vector<size_t> window;  // [layers]: a token sees itself and window - 1 before it; 0 = all
  std::vector<bool> bias;      // [architecture->tensors.size()]: must the module have a bias?

  size_t query_size() const { return heads * head_dim; }
  size_t kv_size() const { return kv_heads * head_dim; }
};

// Reads Hugging Face's config.json: both the `rope_parameters` of transformers 5 and `rope_theta` + `rope_scaling`.
// Errors start with "config.json" and name the key: kUnsupported for what is valid but not handled (architecture,
// activation, rope type), kCorrupt for numbers that cannot be.
ModelConfig parse_config(const Json& config);
// The family of a config.json; errors as above.
const Architecture& architecture_of(const Json& config);
// The shape of a module's weight. Norms are [n], everything else [out, in].
std::vector<size_t> weight_shape(const ModelConfig& config, Slot slot);

}  // namespace nibble
