#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/tensor.h"
#include "model/cache_type.h"
#include "model/config.h"
#include "model/source.h"
#include "model/tokenizer.h"
#include "quant/weight_matrix.h"

namespace nibble {

// Keys and values of the tokens seen so far, one contiguous slab for each layer. Grows only in reserve().
class KvCache;

// The arithmetic of the products with weights.
enum class Compute : uint8_t {
  kFp32,  // packed weights are dequantized on the fly
  kBf16,  // as kFp32, but activations are rounded to bf16, and so are, for many tokens at once, weights with more bits
  kInt8,  // activations are quantized to int8 on the fly; weights that Int8Matrix does not accept stay at kFp32
  kAuto,  // by the weight: kInt8 where it accepts it, kBf16 where it is stored so, else kFp32
};

struct LoadOptions {
  // Store unquantized weights as this type instead of the file's (F32, F16, BF16).
  std::optional<DType> dtype;
  Compute compute = Compute::kFp32;
  // Copy dense weights to memory of the process (core/weight_memory.h) instead of reading them from the file's mapping:
  // the token loop gets faster, and the memory is no longer shared with other processes.
  bool copy_dense = false;
  // Called for every matrix before it is loaded; a returned weight is used instead (quantization on the fly).
  std::function<std::optional<WeightMatrix>(const StoredTensor&)> replace;
  // Called whenever a pass has read the weights of a layer, with its number, and with the number of layers after the
  // last matrix: mapped pages may be released.
  std::function<void(size_t layer)> layer_done = {};
};

// How far quantized activations moved the products of one weight.
struct ProductCheck {
  std::string name;       // "model.layers.3.mlp.down_proj"
  double error = 0;       // |int8 - float| / |float|, Euclidean norms over all tokens
  bool replaced = false;  // the weight computes in float from now on
};

class Model {
 public:
  // Weights are views of the source's mapping wherever layout and dtype allow it. Throws Error naming file and tensor
  // for unknown architectures, missing tensors and wrong shapes.
  static std::unique_ptr<Model> load(const Source& source, const LoadOptions& options = {},
                                     Progress& progress = no_progress());
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;
  virtual size_t weight_bytes() const = 0;  // in memory
  // Of weights that one token's forward reads: all but the embedding, of which it looks up a row (where the embedding
  // is the last matrix too, it counts).
  virtual size_t token_bytes() const = 0;
  // Room for `capacity` tokens.
  virtual std::unique_ptr<KvCache> make_cache(size_t capacity, CacheType type) const = 0;
  // Appends `tokens` to `cache`. logits is [tokens.size(), vocab], or [1, vocab] for the last token only.
  // Throws Error(kUsage) for ids outside the vocabulary and when the cache is full.
  virtual void forward(std::span<const TokenId> tokens, KvCache& cache, MatrixView<float> logits) = 0;
  // The next token of several sequences: appends tokens[i] to *caches[i] (all different) and gives logits[i], logits
  // being [tokens.size(), vocab]. The same, up to rounding, as forward() for one after the other, which this does by
  // default; models read their weights once for all. Throws as forward().
  virtual void forward_batch(std::span<const TokenId> tokens, std::span<KvCache* const> caches,
                             MatrixView<float> logits);

  // Runs `tokens` and compares what every weight at kInt8 gives with the same product in float, in the order of the
  // layers. Weights that are off by more than `tolerance` compute in float from then on.
  virtual std::vector<ProductCheck> check_products(std::span<const TokenId> tokens, double tolerance) = 0;
};

class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual size_t size() const = 0;      // tokens held
  virtual size_t capacity() const = 0;  // tokens
  // Forgets all but the first `tokens`. What a quantized cache holds of these is kept as it is.
  virtual void truncate(size_t tokens) = 0;
};

}  // namespace nibble
