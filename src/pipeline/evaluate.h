#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/progress.h"
#include "model/model.h"

namespace nibble {

struct EvalOptions {
  size_t ctx = 512;                   // tokens of a window, >= 2
  size_t chunks = 0;                  // windows to use; 0 = all that the tokens fill
  size_t skip_first = 0;              // predictions left out at the start of each window, < ctx - 1
  std::optional<TokenId> bos = {};    // put in the place of each window's first token
  CacheType cache = CacheType::kF32;  // of the model; the reference keeps its keys and values in f32
};

// Of one value for every prediction. Percentiles interpolate linearly between order statistics.
struct Distribution {
  double mean = 0, median = 0, p90 = 0, p99 = 0, p999 = 0, max = 0;
};
Distribution summarize(std::vector<double> values);

// The model against a reference on the same predictions.
struct Comparison {
  double ref_nll = 0;
  Distribution kld;        // KL(ref || model) over the whole vocabulary, nats
  double top1 = 0;         // share of predictions whose argmax agrees
  double delta_p_rms = 0;  // root mean square change of the probability of the text's own next token
};

struct Evaluation {
  double nll = 0;                  // mean negative log-likelihood of the predictions, nats; perplexity = exp(nll)
  std::vector<double> window_nll;  // the same for each window
  size_t predictions = 0;
  std::optional<Comparison> ref;
};

// Consecutive, non-overlapping windows of `tokens` (a shorter text is one short window), each from an empty cache. With
// `ref` both models run in lock-step, part of a window at a time, so no more than two blocks of logits exist. Throws
// Error(kUsage) when there are fewer than two tokens or the vocabularies differ, Error(kCorrupt) on logits that are not
// numbers.
Evaluation evaluate(Model& model, Model* ref, std::span<const TokenId> tokens, const EvalOptions& options,
                    Progress& progress);

}  // namespace nibble
