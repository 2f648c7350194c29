#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nibble {

// What a tensor is for. A decoder block is described by the slots that its family fills; the decoder runs an operation
// where the slot it needs is filled. New families add slots (post-norms, fused projections, experts) beside these.
enum class Slot : uint8_t {
  kEmbedding,        // [vocab, hidden]
  kFinalNorm,        // [hidden]
  kLmHead,           // [vocab, hidden]; absent when tied to the embedding
  kAttentionNorm,    // [hidden], before attention
  kQuery,            // [heads * head_dim, hidden]
  kKey,              // [kv_heads * head_dim, hidden]
  kValue,            // [kv_heads * head_dim, hidden]
  kQueryNorm,        // [head_dim], over each query head before the rotation
  kKeyNorm,          // [head_dim]
  kAttentionOutput,  // [hidden, heads * head_dim]
  kMlpNorm,          // [hidden], before the MLP
  kGate,             // [intermediate, hidden]
  kUp,               // [intermediate, hidden]
  kDown,             // [hidden, intermediate]
};

// Does a module have a bias? Yes when `always`, or when config.json's boolean `key` (if not empty) is true.
struct BiasRule {
  bool always = false;
  std::string_view key = {};
};

// One module of a family under both of its names, without ".weight" or ".bias"; "{layer}" stands for the block's
// number.
struct TensorRule {
  Slot slot;
  std::string_view hf;    // "model.layers.{layer}.self_attn.q_proj"
  std::string_view gguf;  // "blk.{layer}.attn_q"
  BiasRule bias = {};
  // GGUF stores the rows of each head with the two halves of every rotated pair side by side: row 2i + j of a head
  // there is row j * head_dim / 2 + i in Hugging Face's order (j in {0, 1}).
  bool gguf_interleaved = false;
};

// A family of decoders as data. All views are static.
struct Architecture {
  std::string_view name;        // config.json's model_type, "llama"
  std::string_view class_name;  // config.json's architectures[0], "LlamaForCausalLM"
  std::string_view gguf_name;   // general.architecture; empty when GGUF files use another family's name
  // JSON object: what transformers assumes for keys that config.json leaves out. Sizes that every file states are
  // required.
  std::string_view defaults;
  // Pairs of a GGUF metadata key (without "ARCHITECTURE.") and the config.json key that it becomes.
  std::span<const std::pair<std::string_view, std::string_view>> gguf_keys;
  std::span<const TensorRule> tensors;

  const TensorRule* find(Slot slot) const;  // null when this family has no such module
};

std::span<const Architecture* const> architectures();
// By config.json's architectures[0]; Error(kUnsupported) listing the known ones.
const Architecture& get_architecture(std::string_view class_name);
// By GGUF's general.architecture; Error(kUnsupported) listing the known ones.
const Architecture& get_gguf_architecture(std::string_view gguf_name);

// A tensor's place in a model of a known family.
struct TensorPlace {
  const TensorRule* rule;
  std::optional<size_t> layer;
  bool bias;  // ".bias" rather than ".weight"
};
// Nothing for names outside the description.
std::optional<TensorPlace> find_hf_tensor(const Architecture& architecture, std::string_view hf_name);
std::optional<TensorPlace> find_gguf_tensor(const Architecture& architecture, std::string_view gguf_name);
// `module` with {layer} replaced, and ".weight" or ".bias" appended.
std::string tensor_name(std::string_view module, std::optional<size_t> layer, bool bias);

// How a tensor is treated by those that only quantize and report.
enum class TensorRole : uint8_t { kEmbedding, kLmHead, kLinear, kNorm, kBias, kOther };
TensorRole role_of(const Architecture& architecture, std::string_view hf_name);
std::string_view name(TensorRole role);  // "embedding", "lm_head", "linear", "norm", "bias", "other"

}  // namespace nibble
