#include "model/sampler.h"
#include "core/test_sanitized.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace nibble {
namespace {

std::vector<float> logs(std::vector<double> probabilities) {
  std::vector<float> logits;
  for (double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

// Nothing filtered, nothing penalised.
SamplerOptions plain(float temperature = 1) { return {.temperature = temperature, .top_k = 0, .top_p = 1, .seed = 7}; }

// Share of each token among many draws from the same logits.
std::vector<double> shares(const SamplerOptions& options, const std::vector<float>& logits) {
  constexpr int kDraws = 200000;
  Sampler sampler(options, logits.size());
  std::vector<double> out(logits.size(), 0.0);
  for (int i = 0; i < kDraws; ++i) {
    std::vector<float> copy = logits;
    out[static_cast<size_t>(sampler.sample(copy))] += 1.0 / kDraws;
  }
  return out;
}

// 200 000 draws: three standard deviations are below 0.0034.
auto near(std::vector<double> want) { return testing::Pointwise(testing::DoubleNear(0.004), want); }

TEST(Sampler, DrawsTheSoftmax) { EXPECT_THAT(shares(plain(), logs({0.5, 0.2, 0.2, 0.1})), near({0.5, 0.2, 0.2, 0.1})); }

TEST(Sampler, TemperatureSharpensAndFlattens) {
  // p^(1/T), normalised: at 0.5 squares 25:4:1 of {.5, .2, .1}, at 2 square roots.
  EXPECT_THAT(shares(plain(0.5f), logs({0.5, 0.2, 0.1})), near({25.0 / 30, 4.0 / 30, 1.0 / 30}));
  const double a = std::sqrt(0.5), b = std::sqrt(0.2), c = std::sqrt(0.1);
  EXPECT_THAT(shares(plain(2), logs({0.5, 0.2, 0.1})), near({a / (a + b + c), b / (a + b + c), c / (a + b + c)}));
}

TEST(Sampler, TopKKeepsTheLargestAndTiesGoToTheLowerId) {
  SamplerOptions options = plain();
  options.top_k = 2;
  EXPECT_THAT(shares(options, logs({0.1, 0.2, 0.5, 0.2})), near({0, 2.0 / 7, 5.0 / 7, 0}));
  options.top_k = 9;  // more than there are
  EXPECT_THAT(shares(options, logs({0.5, 0.5})), near({0.5, 0.5}));
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  SamplerOptions options = plain();
  options.top_p = 0.69f;  // .5 + .2 reaches it; the equal third does not belong
  EXPECT_THAT(shares(options, logs({0.5, 0.2, 0.2, 0.1})), near({5.0 / 7, 2.0 / 7, 0, 0}));
  options.top_p = 0.01f;  // never less than one token
  EXPECT_THAT(shares(options, logs({0.2, 0.5, 0.3})), near({0, 1, 0}));
}

TEST(Sampler, MinPIsRelativeToTheLikeliest) {
  SamplerOptions options = plain();
  options.min_p = 0.39f;  // .39 * .5 = .195
  EXPECT_THAT(shares(options, logs({0.5, 0.2, 0.19, 0.11})), near({5.0 / 7, 2.0 / 7, 0, 0}));
}

TEST(Sampler, RepeatPenaltyDividesPositiveAndMultipliesNegativeLogits) {
  SamplerOptions options = plain();
  options.repeat_penalty = 2;
  options.greedy = true;
  Sampler sampler(options, 3);
  sampler.accept(std::vector<TokenId>{0, 99, -1});  // ids that the model does not have are nobody's
  std::vector<float> logits = {4.0f, 2.5f, -1.0f};
  EXPECT_EQ(sampler.sample(logits), 1);  // 4 / 2 < 2.5; and 1 is now seen too
  EXPECT_THAT(logits, testing::ElementsAre(2.0f, 2.5f, -1.0f));
  logits = {-3.0f, -2.0f, -3.5f};
  EXPECT_EQ(sampler.sample(logits), 2);
  EXPECT_THAT(logits, testing::ElementsAre(-6.0f, -4.0f, -3.5f));
}

TEST(Sampler, GreedyTakesTheFirstOfEquals) {
  for (const bool by_flag : {true, false}) {
    SamplerOptions options = plain(by_flag ? 1.0f : 0.0f);
    options.greedy = by_flag;
    Sampler sampler(options, 4);
    std::vector<float> logits = {1, 3, 3, 2};
    EXPECT_EQ(sampler.sample(logits), 1);
    logits = {NAN, -INFINITY, -5, NAN};
    EXPECT_EQ(sampler.sample(logits), 2);
  }
}

TEST(Sampler, SeedDecides) {
  const std::vector<float> logits = logs({0.3, 0.3, 0.2, 0.2});
  const auto run = [&](uint64_t seed) {
    SamplerOptions options = plain();
    options.seed = seed;
    Sampler sampler(options, logits.size());
    std::vector<TokenId> out;
    for (int i = 0; i < 64; ++i) {
      std::vector<float> copy = logits;
      out.push_back(sampler.sample(copy));
    }
    return out;
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

// The definition: every token that can be drawn, sorted, in double.
TokenId defined(const SamplerOptions& o, const std::vector<float>& logits, Random& random) {
  std::vector<std::pair<double, TokenId>> order;
  for (size_t i = 0; i < logits.size(); ++i)
    if (!std::isnan(logits[i])) order.emplace_back(-double{logits[i]}, static_cast<TokenId>(i));
  std::sort(order.begin(), order.end());
  const double top = order[0].first;
  for (auto& [value, id] : order) value = std::exp((top - value) / double{o.temperature});
  while (order.back().first < double{o.min_p}) order.pop_back();
  if (o.top_k > 0 && order.size() > o.top_k) order.resize(o.top_k);
  const auto total = [&] {
    double sum = 0;
    for (const auto& [weight, id] : order) sum += weight;
    return sum;
  };
  double kept = 0;
  size_t count = 0;
  for (const double wanted = double{o.top_p} * total(); count < order.size() && kept < wanted;)
    kept += order[count++].first;
  order.resize(count);
  double left = random.uniform() * total();
  for (const auto& [weight, id] : order)
    if ((left -= weight) < 0) return id;
  return order.back().second;
}

TEST(Sampler, IsItsDefinition) {
  Random random(11);
  for (const size_t vocab : {1u, 3u, 64u, 65u, 700u, kSanitized ? 1100u : 5000u})
    for (const size_t top_k : {0u, 1u, 2u, 40u, 300u, 6000u})
      for (const float top_p : {0.02f, 0.5f, 0.95f, 1.0f})
        for (const float min_p : {0.0f, 0.011f, 0.3f})
          for (const float temperature : {0.3f, 1.0f, 2.5f}) {
            const SamplerOptions options = {
                .temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p, .seed = vocab + top_k};
            std::vector<float> logits(vocab);
            for (float& logit : logits) logit = std::round(static_cast<float>(random.uniform()) * 60) / 4;  // with ties
            for (size_t i = 2; i < vocab; i += 97) logits[i] = i % 2 == 0 ? NAN : -INFINITY;
            Sampler sampler(options, vocab);
            Random same(options.seed);
            for (int i = 0; i < 3; ++i) {
              std::vector<float> copy = logits;
              ASSERT_EQ(sampler.sample(copy), defined(options, logits, same))
                  << vocab << " tokens, top-k " << top_k << ", top-p " << top_p << ", min-p " << min_p
                  << ", temperature " << temperature;
            }
          }
}

TEST(Sampler, RefusesNonsense) {
  EXPECT_THROW(Sampler({.temperature = -1}, 4), Error);
  EXPECT_THROW(Sampler({.temperature = NAN}, 4), Error);
  EXPECT_THROW(Sampler({.top_p = 0}, 4), Error);
  EXPECT_THROW(Sampler({.top_p = 1.5f}, 4), Error);
  EXPECT_THROW(Sampler({.min_p = -0.1f}, 4), Error);
  EXPECT_THROW(Sampler({.repeat_penalty = 0}, 4), Error);
  Sampler sampler(plain(), 2);
  std::vector<float> wrong_size(3, 0.0f), not_finite(2, NAN);
  EXPECT_THROW(sampler.sample(wrong_size), Error);
  EXPECT_THROW(sampler.sample(not_finite), Error);
}

}  // namespace
}  // namespace nibble
