#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "core/random.h"
#include "model/tokenizer.h"

namespace nibble {

struct SamplerOptions {
  bool greedy = false;
  float temperature = 0.8f;     // 0 = greedy
  size_t top_k = 40;            // 0 = off
  float top_p = 0.95f;          // 1 = off
  float min_p = 0.0f;           // 0 = off; relative to the most likely token
  float repeat_penalty = 1.0f;  // 1 = off; on tokens seen so far (Keskar et al. 2019, CTRL)
  uint64_t seed = 0;
};

// Chooses tokens from logits. Deterministic in its seed. Ties go to the lower id. Order of the filters: repeat penalty,
// temperature, min-p, top-k, top-p (of what is left).
class Sampler {
 public:
  // Throws Error(kUsage) naming an option that is out of range.
  Sampler(const SamplerOptions& options, size_t vocab_size);
  // Tokens that the repeat penalty counts as seen (the prompt).
  void accept(std::span<const TokenId> tokens);
  // Chooses, and accepts the choice. `logits` is [vocab] and may be changed. Allocates nothing. Throws Error(kCorrupt)
  // when no logit is finite.
  TokenId sample(std::span<float> logits);

 private:
  TokenId best(std::span<const float> logits) const;
  TokenId draw(std::span<const float> logits);

  // The candidates: ids in order_[0, count).
  size_t gather(std::span<const float> logits, float floor);
  size_t gather_largest(std::span<const float> logits, float floor, size_t wanted);
  void sort(std::span<const float> logits, size_t count);
  TokenId draw_sorted(std::span<const float> logits, float top, size_t count);
  TokenId draw_from_all(std::span<const float> logits, float top);
  void see(TokenId token);

  SamplerOptions options_;
  Random random_;
  std::vector<bool> is_seen_;
  std::vector<TokenId> seen_;   // each once
  std::vector<TokenId> order_;  // [vocab]
  std::vector<float> space_;    // [vocab]
};

}  // namespace nibble
