#include "pipeline/bench.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/random.h"
#include "core/threads.h"
#include "core/usage.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

std::vector<TokenId> random_tokens(size_t count, size_t vocab_size) {
  Random random(0);
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random.uniform() * static_cast<double>(vocab_size));
  return tokens;
}

class Bench {
 public:
  Bench(Model& model, const BenchOptions& options)
      : model_(model),
        prompt_(random_tokens(std::max<size_t>(options.prompt, 1), model.config().vocab_size)),
        logits_(model.config().vocab_size),
        cache_(model.make_cache(std::max(options.prompt, options.tokens) + 1, options.cache)) {}

  // Tokens per second.
  double prefill(size_t count) {
    cache_->truncate(0);
    return timed(count, [&] { forward(std::span(prompt_).first(count)); });
  }

  double decode(size_t count) {
    cache_->truncate(0);
    TokenId token = prompt_.front();
    return timed(count, [&] {
      for (size_t i = 0; i < count; ++i) {
        check_interrupted();
        forward(std::span(&token, 1));
        token = static_cast<TokenId>(kernels::active().argmax(logits_.data(), logits_.size()));
      }
    });
  }

 private:
  void forward(std::span<const TokenId> tokens) {
    model_.forward(tokens, *cache_, matrix(logits_.data(), 1, logits_.size()));
  }

  template <class Work>
  static double timed(size_t tokens, const Work& work) {
    const double start = wall_seconds();
    work();
    return static_cast<double>(tokens) / std::max(wall_seconds() - start, 1e-9);
  }

  Model& model_;
  std::vector<TokenId> prompt_;
  std::vector<float> logits_;
  std::unique_ptr<KvCache> cache_;
};

}  // namespace

Rate rate(const std::vector<double>& samples) {
  Rate out;
  if (samples.empty()) return out;
  const auto count = static_cast<double>(samples.size());
  for (const double sample : samples) out.mean += sample / count;
  if (samples.size() == 1) return out;
  for (const double sample : samples) out.deviation += (sample - out.mean) * (sample - out.mean) / (count - 1);
  out.deviation = std::sqrt(out.deviation);
  return out;
}

std::vector<BenchRow> bench(Model& model, const BenchOptions& options, Progress& progress) {
  const size_t context = model.config().max_positions;
  if (std::max(options.prompt, options.tokens) > context)
    throw Error(ErrorKind::kUsage, cat("the model's context is ", context,
                                       " tokens: ask for a prompt and an answer of ", "at most that (-p, -n)"));
  Bench work(model, options);
  struct Samples {
    std::vector<double> prefill, decode;
  };
  std::vector<Samples> samples(options.threads.size());
  const size_t total = options.repetitions * options.threads.size();
  for (size_t i = 0; i < total; ++i) {
    const size_t row = i % options.threads.size();
    progress.update(i, total, cat(options.threads[row], options.threads[row] == 1 ? " thread" : " threads"));
    set_thread_count(options.threads[row]);
    if (options.prompt > 0) {
      if (samples[row].prefill.empty()) work.prefill(std::min<size_t>(options.prompt, 64));
      samples[row].prefill.push_back(work.prefill(options.prompt));
    }
    if (options.tokens > 0) {
      work.decode(std::min<size_t>(options.tokens, 4));
      samples[row].decode.push_back(work.decode(options.tokens));
    }
    check_interrupted();
  }
  std::vector<BenchRow> rows;
  for (size_t r = 0; r < samples.size(); ++r) {
    BenchRow& row = rows.emplace_back();
    row = {options.threads[r], rate(samples[r].prefill), rate(samples[r].decode)};
    row.decode_gb_s = row.decode.mean * static_cast<double>(model.token_bytes()) / 1e9;
  }
  return rows;
}

}  // namespace nibble
