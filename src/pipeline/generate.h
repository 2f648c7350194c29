#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/progress.h"
#include "model/model.h"
#include "model/sampler.h"

namespace nibble {

enum class StopReason {
  kEos,          // the model ended the text
  kLength,       // max_tokens
  kContext,      // the model's context is full
  kInterrupted,  // the user asked to stop
};
std::string_view name(StopReason reason);  // "eos", "length", "context", "interrupted"

struct GenerateOptions {
  size_t max_tokens = 128;
  std::vector<TokenId> eos = {};  // tokens that end a text; empty to go on past them
};

struct Generation {
  std::vector<TokenId> tokens;  // a stop token included
  StopReason stop = StopReason::kLength;
  size_t decoded = 0;  // tokens that were run through the model one by one
  double seconds = 0;  // that this took
};

// A text that a model reads and continues, in a KV cache of its own. The model outlives it.
class Session {
 public:
  Session(Model& model, CacheType cache_type) : model_(model), cache_type_(cache_type) {}

  // Makes `text` what the model has read, with room for `reserve` more tokens. What the cache already holds of it is
  // not computed again. False when the user interrupted it; the session stays usable. Throws Error(kUsage) when `text`
  // is empty, longer than the model's context or has ids outside of the vocabulary.
  bool read(std::span<const TokenId> text, size_t reserve, Progress& progress);
  // Continues what was read; `on_token` sees every token as it is chosen. Only directly after a read() that returned
  // true.
  Generation write(Sampler& sampler, const GenerateOptions& options, const std::function<void(TokenId)>& on_token);

  // Of the last read(): tokens computed, and the seconds that this took.
  size_t prefilled() const { return prefilled_; }
  double prefill_seconds() const { return prefill_seconds_; }

 private:
  void ensure_room(size_t tokens);
  void forward(std::span<const TokenId> tokens);

  Model& model_;
  CacheType cache_type_;
  std::unique_ptr<KvCache> cache_;
  std::vector<TokenId> held_;  // what the cache holds
  std::vector<float> logits_;  // [vocab], after the last token of held_
  size_t prefilled_ = 0;
  double prefill_seconds_ = 0;
};

}  // namespace nibble
