#include "model/sampler.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace nibble {
namespace {

void check(bool good, std::string_view name, double value, std::string_view expected) {
  if (!good) throw Error(ErrorKind::kUsage, cat(name, " should be ", expected, ", found ", value));
}

}  // namespace

Sampler::Sampler(const SamplerOptions& options, size_t vocab_size)
    : options_(options), random_(options.seed), seen_(vocab_size, false), order_(vocab_size) {
  // Comparisons that NaN fails too.
  check(options.temperature >= 0 && std::isfinite(options.temperature), "the temperature", options.temperature,
        "0 or more");
  check(options.top_p > 0 && options.top_p <= 1, "top-p", options.top_p, "above 0 and at most 1");
  check(options.min_p >= 0 && options.min_p <= 1, "min-p", options.min_p, "from 0 to 1");
  check(options.repeat_penalty > 0 && std::isfinite(options.repeat_penalty), "the repeat penalty",
        options.repeat_penalty, "above 0");
}

void Sampler::accept(std::span<const TokenId> tokens) {
  for (TokenId token : tokens)
    if (token >= 0 && static_cast<size_t>(token) < seen_.size()) seen_[static_cast<size_t>(token)] = true;
}

TokenId Sampler::sample(std::span<float> logits) {
  if (logits.empty() || logits.size() != order_.size())
    throw Error(ErrorKind::kUsage, cat("the sampler was made for ", order_.size(), " logits, found ", logits.size()));
  if (options_.repeat_penalty != 1.0f)
    for (size_t i = 0; i < logits.size(); ++i)
      if (seen_[i])
        logits[i] = logits[i] > 0 ? logits[i] / options_.repeat_penalty : logits[i] * options_.repeat_penalty;

  const bool greedy = options_.greedy || options_.temperature == 0;
  const TokenId token = greedy ? best(logits) : draw(logits);
  seen_[static_cast<size_t>(token)] = true;
  return token;
}

TokenId Sampler::best(std::span<const float> logits) const {
  const auto top = std::max_element(logits.begin(), logits.end(),
                                    [](float a, float b) { return a < b || (std::isnan(a) && !std::isnan(b)); });
  if (!std::isfinite(*top))
    throw Error(ErrorKind::kCorrupt,
                "the model's logits are not finite: its weights are damaged, or overflowed when converted");
  return static_cast<TokenId>(top - logits.begin());
}

TokenId Sampler::draw(std::span<float> logits) {
  const float top = logits[static_cast<size_t>(best(logits))];
  // Only tokens that can be drawn at all take part: the order is of them, and sorting is by falling logit, then rising
  // id.
  const float floor = options_.min_p > 0 ? top + options_.temperature * std::log(options_.min_p) : -INFINITY;
  size_t count = 0;
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] >= floor && logits[i] > -INFINITY) order_[count++] = static_cast<TokenId>(i);
  const auto first = order_.begin();
  const auto before = [&](TokenId a, TokenId b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  const auto end = [&] { return first + static_cast<std::ptrdiff_t>(count); };
  if (options_.top_k > 0 && options_.top_k < count) {
    const auto cut = first + static_cast<std::ptrdiff_t>(options_.top_k);
    std::nth_element(first, cut, end(), before);
    count = options_.top_k;
  }
  std::sort(first, end(), before);

  // exp((logit - top) / temperature), summed in double; the probabilities' common factor cancels below.
  const auto weight = [&](size_t k) {
    return std::exp((static_cast<double>(logits[static_cast<size_t>(order_[k])]) - static_cast<double>(top)) /
                    static_cast<double>(options_.temperature));
  };
  double total = 0;
  for (size_t k = 0; k < count; ++k) total += weight(k);
  if (options_.top_p < 1) {
    const double wanted = static_cast<double>(options_.top_p) * total;
    double kept = 0;
    size_t k = 0;
    while (k < count && kept < wanted) kept += weight(k++);
    count = std::max<size_t>(k, 1);
    total = kept;
  }

  double left = random_.uniform() * total;
  for (size_t k = 0; k + 1 < count; ++k) {
    left -= weight(k);
    if (left < 0) return order_[k];
  }
  return order_[count - 1];
}

}  // namespace nibble
