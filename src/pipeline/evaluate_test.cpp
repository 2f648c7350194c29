#include "pipeline/evaluate.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/threads.h"
#include "model/config.h"

namespace nibble {
namespace {

using testing::DoubleNear;
using testing::HasSubstr;

constexpr size_t kVocab = 5;

class FakeCache final : public KvCache {
 public:
  explicit FakeCache(size_t capacity) : capacity_(capacity) {}
  size_t size() const override { return tokens.size(); }
  size_t capacity() const override { return capacity_; }
  void truncate(size_t count) override { tokens.resize(std::min(count, tokens.size())); }
  std::vector<TokenId> tokens;

 private:
  size_t capacity_;
};

// Logits that depend on the token and its position in the cache, so that a wrong window, offset or order shows.
double logit(TokenId token, size_t position, size_t candidate, double sharpness) {
  return sharpness *
         std::sin(1.0 + 0.7 * token + 1.3 * static_cast<double>(position) + 2.1 * static_cast<double>(candidate));
}

class FakeModel final : public Model {
 public:
  explicit FakeModel(double sharpness, size_t vocab = kVocab) : sharpness_(sharpness) { config_.vocab_size = vocab; }
  const ModelConfig& config() const override { return config_; }
  size_t weight_bytes() const override { return 0; }
  size_t token_bytes() const override { return 0; }
  std::vector<ProductCheck> check_products(std::span<const TokenId>, double) override { return {}; }
  std::unique_ptr<KvCache> make_cache(size_t capacity, CacheType) const override {
    return std::make_unique<FakeCache>(capacity);
  }
  void forward(std::span<const TokenId> tokens, KvCache& cache, MatrixView<float> logits) override {
    auto& fake = dynamic_cast<FakeCache&>(cache);
    ASSERT_EQ(logits.rows, tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      for (size_t v = 0; v < logits.cols; ++v)
        logits.row(i)[v] = static_cast<float>(logit(tokens[i], fake.size(), v, sharpness_));
      fake.tokens.push_back(tokens[i]);
    }
    ASSERT_LE(fake.size(), fake.capacity());
  }

 private:
  double sharpness_;
  ModelConfig config_;
};

std::vector<double> log_probabilities(TokenId token, size_t position, double sharpness) {
  double sum = 0;
  for (size_t v = 0; v < kVocab; ++v) sum += std::exp(logit(token, position, v, sharpness));
  std::vector<double> out;
  for (size_t v = 0; v < kVocab; ++v) out.push_back(logit(token, position, v, sharpness) - std::log(sum));
  return out;
}

const std::vector<TokenId> kText = {0, 3, 1, 4, 2, 2, 0, 1, 3, 3, 4, 0, 1};  // three windows of 4, one token over

TEST(Evaluate, PerplexityIsTheMeanOverEveryPredictionOfEveryWholeWindow) {
  FakeModel model(2.0);
  const Evaluation e = evaluate(model, nullptr, kText, {.ctx = 4}, no_progress());
  double sum = 0;
  for (size_t w = 0; w < 3; ++w) {
    double window = 0;
    for (size_t i = 0; i < 3; ++i)
      window -= log_probabilities(kText[w * 4 + i], i, 2.0)[static_cast<size_t>(kText[w * 4 + i + 1])];
    EXPECT_THAT(e.window_nll[w], DoubleNear(window / 3, 1e-6));
    sum += window;
  }
  EXPECT_EQ(e.predictions, 9u);
  EXPECT_THAT(e.nll, DoubleNear(sum / 9, 1e-6));
  EXPECT_FALSE(e.ref.has_value());
}

TEST(Evaluate, SkipFirstBosAndChunks) {
  FakeModel model(2.0);
  const Evaluation e =
      evaluate(model, nullptr, kText, {.ctx = 4, .chunks = 2, .skip_first = 2, .bos = 4}, no_progress());
  ASSERT_EQ(e.window_nll.size(), 2u);
  EXPECT_EQ(e.predictions, 2u);
  EXPECT_THAT(e.window_nll[1], DoubleNear(-log_probabilities(kText[6], 2, 2.0)[static_cast<size_t>(kText[7])], 1e-6));
  const Evaluation first = evaluate(model, nullptr, kText, {.ctx = 4, .chunks = 1, .bos = 4}, no_progress());
  const double with_bos = -log_probabilities(4, 0, 2.0)[static_cast<size_t>(kText[1])] -
                          log_probabilities(kText[1], 1, 2.0)[static_cast<size_t>(kText[2])] -
                          log_probabilities(kText[2], 2, 2.0)[static_cast<size_t>(kText[3])];
  EXPECT_THAT(first.window_nll[0], DoubleNear(with_bos / 3, 1e-6));
}

TEST(Evaluate, ComparisonAgreesWithTheDefinitions) {
  FakeModel model(1.0), ref(3.0);
  const Evaluation e = evaluate(model, &ref, kText, {.ctx = 4}, no_progress());
  std::vector<double> kld;
  double agree = 0, delta = 0;
  for (size_t w = 0; w < 3; ++w)
    for (size_t i = 0; i < 3; ++i) {
      const auto p = log_probabilities(kText[w * 4 + i], i, 3.0), q = log_probabilities(kText[w * 4 + i], i, 1.0);
      double sum = 0;
      for (size_t v = 0; v < kVocab; ++v) sum += std::exp(p[v]) * (p[v] - q[v]);
      kld.push_back(sum);
      agree +=
          std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin() ? 1 : 0;
      const auto target = static_cast<size_t>(kText[w * 4 + i + 1]);
      delta += std::pow(std::exp(q[target]) - std::exp(p[target]), 2);
    }
  ASSERT_TRUE(e.ref.has_value());
  EXPECT_THAT(e.ref->kld.mean, DoubleNear(summarize(kld).mean, 1e-6));
  EXPECT_THAT(e.ref->kld.max, DoubleNear(*std::max_element(kld.begin(), kld.end()), 1e-6));
  EXPECT_THAT(e.ref->top1, DoubleNear(agree / 9, 1e-12));
  EXPECT_THAT(e.ref->delta_p_rms, DoubleNear(std::sqrt(delta / 9), 1e-6));
  const Evaluation same = evaluate(ref, &ref, kText, {.ctx = 4}, no_progress());
  EXPECT_EQ(same.ref->kld.max, 0.0);
  EXPECT_EQ(same.ref->top1, 1.0);
}

TEST(Evaluate, RefusesWhatCannotBeMeasured) {
  FakeModel model(1.0), other(1.0, kVocab + 1);
  const auto message = [&](Model* ref, std::span<const TokenId> tokens, EvalOptions options) -> std::string {
    try {
      evaluate(model, ref, tokens, options, no_progress());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message(&other, kText, {.ctx = 4}), HasSubstr("vocabularies differ (5 and 6"));
  EXPECT_THAT(message(nullptr, std::span(kText).first(1), {.ctx = 4}), HasSubstr("fewer than two tokens"));
  EXPECT_THAT(message(nullptr, kText, {.ctx = 1}), HasSubstr("--ctx"));
  EXPECT_THAT(message(nullptr, kText, {.ctx = 4, .skip_first = 3}), HasSubstr("--skip-first"));
}

TEST(Evaluate, SummaryInterpolatesBetweenOrderStatistics) {
  const Distribution d = summarize({4, 1, 3, 2, 5});
  EXPECT_DOUBLE_EQ(d.mean, 3);
  EXPECT_DOUBLE_EQ(d.median, 3);
  EXPECT_DOUBLE_EQ(d.p90, 4.6);
  EXPECT_DOUBLE_EQ(d.max, 5);
}

}  // namespace
}  // namespace nibble
