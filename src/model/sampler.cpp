#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/checked.h"
#include "core/error.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

void check(bool good, std::string_view name, double value, std::string_view expected) {
  if (!good) throw Error(ErrorKind::kUsage, cat(name, " should be ", expected, ", found ", value));
}

constexpr size_t kBlock = 64;  // logits whose largest stands for all when candidates are looked for

float at(std::span<const float> logits, TokenId token) { return logits[static_cast<size_t>(token)]; }

// By falling logit, then rising id.
struct Likelier {
  std::span<const float> logits;
  bool operator()(TokenId a, TokenId b) const {
    const float x = at(logits, a), y = at(logits, b);
    return x > y || (x == y && a < b);
  }
};

// exp((logit - top) / temperature): probabilities up to a factor that cancels.
double weight(float logit, float top, float temperature) {
  return std::exp((static_cast<double>(logit) - static_cast<double>(top)) / static_cast<double>(temperature));
}

}  // namespace

Sampler::Sampler(const SamplerOptions& options, size_t vocab_size)
    : options_(options), random_(options.seed), is_seen_(vocab_size, false), order_(vocab_size), space_(vocab_size) {
  seen_.reserve(vocab_size);
  // Comparisons that NaN fails too.
  check(options.temperature >= 0 && std::isfinite(options.temperature), "the temperature", options.temperature,
        "0 or more");
  check(options.top_p > 0 && options.top_p <= 1, "top-p", options.top_p, "above 0 and at most 1");
  check(options.min_p >= 0 && options.min_p <= 1, "min-p", options.min_p, "from 0 to 1");
  check(options.repeat_penalty > 0 && std::isfinite(options.repeat_penalty), "the repeat penalty",
        options.repeat_penalty, "above 0");
}

void Sampler::see(TokenId token) {
  if (token < 0 || static_cast<size_t>(token) >= is_seen_.size() || is_seen_[static_cast<size_t>(token)]) return;
  is_seen_[static_cast<size_t>(token)] = true;
  seen_.push_back(token);
}

void Sampler::accept(std::span<const TokenId> tokens) {
  for (const TokenId token : tokens) see(token);
}

TokenId Sampler::sample(std::span<float> logits) {
  if (logits.empty() || logits.size() != order_.size())
    throw Error(ErrorKind::kUsage, cat("the sampler was made for ", order_.size(), " logits, found ", logits.size()));
  if (options_.repeat_penalty != 1.0f)
    for (const TokenId token : seen_) {
      float& logit = logits[static_cast<size_t>(token)];
      logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
    }

  const bool greedy = options_.greedy || options_.temperature == 0;
  const TokenId token = greedy ? best(logits) : draw(logits);
  see(token);
  return token;
}

TokenId Sampler::best(std::span<const float> logits) const {
  const size_t top = kernels::active().argmax(logits.data(), logits.size());
  if (!std::isfinite(logits[top]))
    throw Error(ErrorKind::kCorrupt,
                "the model's logits are not finite: its weights are damaged, or overflowed when converted");
  return static_cast<TokenId>(top);
}

TokenId Sampler::draw(std::span<const float> logits) {
  const float top = at(logits, best(logits));
  const float floor = options_.min_p > 0 ? top + options_.temperature * std::log(options_.min_p) : -INFINITY;
  if (options_.top_k > 0) return draw_sorted(logits, top, gather_largest(logits, floor, options_.top_k));
  if (options_.min_p > 0) return draw_sorted(logits, top, gather(logits, floor));
  return draw_from_all(logits, top);
}

// All that are at least `floor`. What is not a number, or cannot be drawn at all, never takes part.
size_t Sampler::gather(std::span<const float> logits, float floor) {
  const auto& kernels = kernels::active();
  size_t count = 0;
  for (size_t b = 0; b < logits.size(); b += kBlock) {
    const size_t size = std::min(kBlock, logits.size() - b);
    const float* const block = logits.data() + b;
    if (!(block[kernels.argmax(block, size)] >= floor)) continue;
    for (size_t i = 0; i < size; ++i)
      if (block[i] >= floor && block[i] > -INFINITY) order_[count++] = static_cast<TokenId>(b + i);
  }
  return count;
}

// The `wanted` largest of these. As many blocks as wanted have a largest logit of at least the wanted-th of these
// maxima, so that nothing below it can be among the `wanted` largest.
size_t Sampler::gather_largest(std::span<const float> logits, float floor, size_t wanted) {
  const auto& kernels = kernels::active();
  const size_t blocks = ceil_div(logits.size(), kBlock);
  if (wanted < blocks) {
    for (size_t b = 0; b < blocks; ++b) {
      const size_t begin = b * kBlock;
      const float* const block = logits.data() + begin;
      const float largest = block[kernels.argmax(block, std::min(kBlock, logits.size() - begin))];
      space_[b] = std::isnan(largest) ? -INFINITY : largest;
    }
    const auto nth = space_.begin() + static_cast<std::ptrdiff_t>(wanted - 1);
    std::nth_element(space_.begin(), nth, space_.begin() + static_cast<std::ptrdiff_t>(blocks), std::greater<>());
    floor = std::max(floor, *nth);
  }
  const size_t count = gather(logits, floor);
  if (count <= wanted) return count;
  const auto first = order_.begin();
  std::nth_element(first, first + static_cast<std::ptrdiff_t>(wanted), first + static_cast<std::ptrdiff_t>(count),
                   Likelier{logits});
  return wanted;
}

void Sampler::sort(std::span<const float> logits, size_t count) {
  std::sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(count), Likelier{logits});
}

TokenId Sampler::draw_sorted(std::span<const float> logits, float top, size_t count) {
  sort(logits, count);
  const auto weigh = [&](size_t k) { return weight(at(logits, order_[k]), top, options_.temperature); };
  double total = 0;
  for (size_t k = 0; k < count; ++k) total += weigh(k);
  if (options_.top_p < 1) {
    const double wanted = static_cast<double>(options_.top_p) * total;
    double kept = 0;
    size_t k = 0;
    while (k < count && kept < wanted) kept += weigh(k++);
    count = std::max<size_t>(k, 1);
    total = kept;
  }

  double left = random_.uniform() * total;
  for (size_t k = 0; k + 1 < count; ++k) {
    left -= weigh(k);
    if (left < 0) return order_[k];
  }
  return order_[count - 1];
}

// The same without a bound on the number of candidates: the likeliest of them are sorted until they hold the share
// that the draw needs. Their total is summed over all logits, in any order.
TokenId Sampler::draw_from_all(std::span<const float> logits, float top) {
  for (size_t i = 0; i < logits.size(); ++i)
    space_[i] = std::isnan(logits[i]) ? -INFINITY : (logits[i] - top) / options_.temperature;
  const double total = std::exp(kernels::active().log_sum_exp(space_.data(), space_.size()));
  const bool cut = options_.top_p < 1;
  const double kept = static_cast<double>(options_.top_p) * total, uniform = random_.uniform();
  const auto weigh = [&](size_t k) { return weight(at(logits, order_[k]), top, options_.temperature); };

  for (float depth = 3;; depth *= 1.5f) {
    const size_t count = gather(logits, top - depth * options_.temperature);
    double held = 0;
    for (size_t k = 0; k < count; ++k) held += weigh(k);
    const bool all = depth > 200;  // weights beyond that vanish
    if (!all && held < (cut ? kept : uniform * total)) continue;
    sort(logits, count);
    // Within top-p, the draw is from the smallest set that reaches it.
    size_t last = count;
    if (cut)
      for (held = 0, last = 0; last < count && held < kept; ++last) held += weigh(last);
    double left = uniform * (cut ? held : total);
    for (size_t k = 0; k < last; ++k) {
      left -= weigh(k);
      if (left < 0) return order_[k];
    }
    if (cut || all) return order_[last - 1];
  }
}

}  // namespace nibble
