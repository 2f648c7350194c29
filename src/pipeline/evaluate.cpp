#include "pipeline/evaluate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "core/checked.h"
#include "core/interrupt.h"
#include "core/threads.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

// What one block of logits may take; more tokens at once use the matrix units hardly better.
constexpr size_t kLogitBytes = size_t{64} << 20;

struct Prediction {
  double nll = 0;
  double ref_nll = 0;
  double kld = 0;
  bool agrees = false;
};

// One model at work on one window.
struct Runner {
  Model& model;
  std::unique_ptr<KvCache> cache;
  std::vector<float> logits;  // [block, vocab]
  size_t vocab;

  Runner(Model& m, size_t ctx, size_t block, CacheType type)
      : model(m), cache(m.make_cache(ctx, type)), logits(block * m.config().vocab_size), vocab(m.config().vocab_size) {}

  MatrixView<float> run(std::span<const TokenId> tokens) {
    const auto out = matrix(logits.data(), tokens.size(), vocab);
    model.forward(tokens, *cache, out);
    return out;
  }
};

Prediction compare(const float* x, const float* ref, size_t vocab, TokenId target) {
  const kernels::Table& k = kernels::active();
  const auto t = static_cast<size_t>(target);
  const double lse = k.log_sum_exp(x, vocab);
  Prediction p;
  p.nll = static_cast<double>(lse) - static_cast<double>(x[t]);
  if (!ref) return p;
  const double ref_lse = k.log_sum_exp(ref, vocab);
  p.ref_nll = static_cast<double>(ref_lse) - static_cast<double>(ref[t]);
  // Rounding can leave a difference of nothing slightly below zero.
  p.kld = std::max(0.0, k.kl_divergence(ref, ref_lse, x, lse, vocab));
  p.agrees = k.argmax(x, vocab) == k.argmax(ref, vocab);
  return p;
}

Comparison summarize_comparison(const std::vector<Prediction>& predictions) {
  Comparison c;
  double delta_squared = 0;
  size_t agree = 0;
  std::vector<double> kld;
  kld.reserve(predictions.size());
  for (const Prediction& p : predictions) {
    c.ref_nll += p.ref_nll;
    const double delta = std::exp(-p.nll) - std::exp(-p.ref_nll);
    delta_squared += delta * delta;
    agree += p.agrees ? 1 : 0;
    kld.push_back(p.kld);
  }
  const auto n = static_cast<double>(predictions.size());
  c.ref_nll /= n;
  c.kld = summarize(std::move(kld));
  c.top1 = static_cast<double>(agree) / n;
  c.delta_p_rms = std::sqrt(delta_squared / n);
  return c;
}

}  // namespace

Distribution summarize(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto quantile = [&](double q) {
    const double at = q * static_cast<double>(values.size() - 1);
    const auto below = static_cast<size_t>(at);
    const size_t above = std::min(below + 1, values.size() - 1);
    return values[below] + (values[above] - values[below]) * (at - static_cast<double>(below));
  };
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  return {mean, quantile(0.5), quantile(0.9), quantile(0.99), quantile(0.999), values.back()};
}

Evaluation evaluate(Model& model, Model* ref, std::span<const TokenId> tokens, const EvalOptions& options,
                    Progress& progress) {
  const size_t vocab = model.config().vocab_size;
  if (ref && ref->config().vocab_size != vocab)
    throw Error(ErrorKind::kUsage, cat("the models' vocabularies differ (", vocab, " and ", ref->config().vocab_size,
                                       " tokens): their distributions cannot be compared"));
  if (tokens.size() < 2) throw Error(ErrorKind::kUsage, "the text has fewer than two tokens: nothing to predict");
  if (options.ctx < 2)
    throw Error(ErrorKind::kUsage, cat("a window of ", options.ctx, " tokens predicts nothing; --ctx needs 2 or more"));
  const size_t ctx = std::min(options.ctx, tokens.size());
  if (options.skip_first + 1 >= ctx)
    throw Error(ErrorKind::kUsage,
                cat("--skip-first ", options.skip_first, " leaves no prediction in windows of ", ctx, " tokens"));
  const size_t filled = tokens.size() / ctx;
  const size_t windows = options.chunks == 0 ? filled : std::min(options.chunks, filled);

  const size_t blocks = ceil_div(ctx, std::clamp<size_t>(kLogitBytes / (vocab * sizeof(float)), 1, ctx));
  const size_t block = ceil_div(ctx, blocks);
  Runner runner(model, ctx, block, options.cache);
  std::optional<Runner> ref_runner;
  if (ref) ref_runner.emplace(*ref, ctx, block, CacheType::kF32);

  Evaluation result;
  std::vector<Prediction> all;
  all.reserve(windows * (ctx - 1 - options.skip_first));
  std::vector<TokenId> input(ctx);
  std::vector<Prediction> window(ctx - 1);
  for (size_t w = 0; w < windows; ++w) {
    const auto text = tokens.subspan(w * ctx, ctx);
    std::copy(text.begin(), text.end(), input.begin());
    if (options.bos) input[0] = *options.bos;
    runner.cache->truncate(0);
    if (ref_runner) ref_runner->cache->truncate(0);
    // The last token is only predicted, never fed.
    for (size_t begin = 0; begin + 1 < ctx; begin += block) {
      check_interrupted();
      progress.update(w * ctx + begin, windows * ctx, cat("window ", w + 1, " of ", windows));
      const size_t count = std::min(block, ctx - 1 - begin);
      const auto part = std::span(input).subspan(begin, count);
      const auto logits = runner.run(part);
      const auto ref_logits = ref_runner ? ref_runner->run(part) : MatrixView<float>{};
      parallel_for(count, 4, [&](size_t first, size_t last) {
        for (size_t i = first; i < last; ++i)
          window[begin + i] = compare(logits.row(i), ref ? ref_logits.row(i) : nullptr, vocab, text[begin + i + 1]);
      });
    }
    double sum = 0;
    for (size_t i = options.skip_first; i + 1 < ctx; ++i) {
      if (std::isnan(window[i].nll) || std::isnan(window[i].ref_nll))
        throw Error(ErrorKind::kCorrupt, cat(std::isnan(window[i].nll) ? "the model" : "the reference",
                                             " gives logits that are not numbers (window ", w, ", token ", i,
                                             "): its weights are damaged or overflow in their type"));
      sum += window[i].nll;
      all.push_back(window[i]);
    }
    result.window_nll.push_back(sum / static_cast<double>(ctx - 1 - options.skip_first));
  }
  result.predictions = all.size();
  for (const Prediction& p : all) result.nll += p.nll;
  result.nll /= static_cast<double>(all.size());
  if (ref) result.ref = summarize_comparison(all);
  return result;
}

}  // namespace nibble
