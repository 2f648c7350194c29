#include "pipeline/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>

#include "core/error.h"
#include "core/interrupt.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr size_t kVocab = 50;

class CountingCache final : public KvCache {
 public:
  explicit CountingCache(size_t capacity) : capacity_(capacity) {}
  size_t size() const override { return held.size(); }
  size_t capacity() const override { return capacity_; }
  void truncate(size_t tokens) override { held.resize(tokens); }

  std::vector<TokenId> held;

 private:
  size_t capacity_;
};

// Continues with the sum of all tokens in its cache plus one: any token missing or left over in the cache shows.
class SummingModel final : public Model {
 public:
  explicit SummingModel(size_t context) {
    config_.vocab_size = kVocab;
    config_.max_positions = context;
  }
  const ModelConfig& config() const override { return config_; }
  size_t weight_bytes() const override { return 0; }
  size_t token_bytes() const override { return 0; }
  std::vector<ProductCheck> check_products(std::span<const TokenId>, double) override { return {}; }
  std::unique_ptr<KvCache> make_cache(size_t capacity, CacheType) const override {
    return std::make_unique<CountingCache>(capacity);
  }
  void forward(std::span<const TokenId> tokens, KvCache& cache, MatrixView<float> logits) override {
    auto& held = dynamic_cast<CountingCache&>(cache).held;
    held.insert(held.end(), tokens.begin(), tokens.end());
    if (held.size() > cache.capacity()) throw Error(ErrorKind::kUsage, "the cache is full");
    std::fill_n(logits.row(logits.rows - 1), kVocab, 0.0f);
    logits.row(logits.rows - 1)[static_cast<size_t>(next(held))] = 1.0f;
  }
  static TokenId next(std::span<const TokenId> held) {
    TokenId sum = 1;
    for (TokenId token : held) sum = (sum + token) % static_cast<TokenId>(kVocab);
    return sum;
  }

 private:
  ModelConfig config_;
};

std::vector<TokenId> expected(std::vector<TokenId> text, size_t count) {
  std::vector<TokenId> out;
  for (size_t i = 0; i < count; ++i) {
    out.push_back(SummingModel::next(text));
    text.push_back(out.back());
  }
  return out;
}

struct Outcome {
  std::vector<TokenId> streamed;
  Generation generation;
  size_t prefilled = 0;
};

Outcome run(Session& session, std::vector<TokenId> text, const GenerateOptions& options) {
  Outcome out;
  Sampler sampler({.greedy = true}, kVocab);
  EXPECT_TRUE(session.read(text, options.max_tokens, no_progress()));
  out.prefilled = session.prefilled();
  out.generation = session.write(sampler, options, [&](TokenId token) { out.streamed.push_back(token); });
  EXPECT_EQ(out.streamed, out.generation.tokens);
  return out;
}

TEST(Session, ContinuesUpToTheLength) {
  SummingModel model(100);
  Session session(model, CacheType::kF32);
  const Outcome r = run(session, {3, 4}, {.max_tokens = 5});
  EXPECT_EQ(r.generation.tokens, expected({3, 4}, 5));
  EXPECT_EQ(r.generation.stop, StopReason::kLength);
  EXPECT_EQ(r.generation.decoded, 4u);
  EXPECT_EQ(r.prefilled, 2u);
  EXPECT_THAT(run(session, {3, 4}, {.max_tokens = 0}).generation.tokens, IsEmpty());
}

TEST(Session, StopsAtAnyEosTokenAndKeepsIt) {
  SummingModel model(100);
  Session session(model, CacheType::kF32);
  const std::vector<TokenId> text = expected({3, 4}, 5);  // 8 16 32 14 28
  const Outcome r = run(session, {3, 4}, {.max_tokens = 9, .eos = {49, text[2]}});
  EXPECT_THAT(r.generation.tokens, ElementsAre(text[0], text[1], text[2]));
  EXPECT_EQ(r.generation.stop, StopReason::kEos);
}

TEST(Session, StopsWhenTheContextIsFull) {
  SummingModel model(6);
  Session session(model, CacheType::kF32);
  const Outcome r = run(session, {1, 2, 3, 4}, {.max_tokens = 50});
  EXPECT_EQ(r.generation.tokens, expected({1, 2, 3, 4}, 3));  // two fit, the third follows from them
  EXPECT_EQ(r.generation.stop, StopReason::kContext);
  EXPECT_THROW(session.read(std::vector<TokenId>(7, 1), 1, no_progress()), Error);
  EXPECT_THROW(session.read({}, 1, no_progress()), Error);
}

TEST(Session, ReadsOnlyWhatIsNew) {
  SummingModel model(4000);
  Session session(model, CacheType::kF32);
  std::vector<TokenId> text = {3, 4};
  const Outcome first = run(session, text, {.max_tokens = 4});
  text.insert(text.end(), first.generation.tokens.begin(), first.generation.tokens.end());
  text.push_back(9);
  // The cache lacks the last token that was chosen, and 9.
  const Outcome second = run(session, text, {.max_tokens = 1});
  EXPECT_EQ(second.generation.tokens, expected(text, 1));
  EXPECT_EQ(second.prefilled, 2u);
  // Another ending: only what differs is read. The same text again: its last token.
  text.back() = 10;
  const Outcome third = run(session, text, {.max_tokens = 1});
  EXPECT_EQ(third.generation.tokens, expected(text, 1));
  EXPECT_EQ(third.prefilled, 1u);
  text.resize(3);
  const Outcome fourth = run(session, text, {.max_tokens = 1});
  EXPECT_EQ(fourth.generation.tokens, expected(text, 1));
  EXPECT_EQ(fourth.prefilled, 1u);
}

TEST(Session, ReadsEverythingAgainWhenTheCacheIsReplaced) {
  SummingModel model(100000);
  Session session(model, CacheType::kF32);
  run(session, {3, 4}, {.max_tokens = 2});
  const Outcome r = run(session, {3, 4, 5}, {.max_tokens = 9000});
  EXPECT_EQ(r.prefilled, 3u);
  EXPECT_EQ(r.generation.tokens, expected({3, 4, 5}, 9000));
}

TEST(Session, ReadsLongTextsInPieces) {
  SummingModel model(4000);
  Session session(model, CacheType::kF32);
  std::vector<TokenId> text;
  for (TokenId i = 0; i < 1300; ++i) text.push_back(i % 47);
  EXPECT_EQ(run(session, text, {.max_tokens = 3}).generation.tokens, expected(text, 3));
}

TEST(Session, AnInterruptEndsOneAnswer) {
  install_interrupt_handler();
  SummingModel model(4000);
  Session session(model, CacheType::kF32);
  Sampler sampler({.greedy = true}, kVocab);
  const std::vector<TokenId> text = {3, 4};
  ASSERT_TRUE(session.read(text, 100, no_progress()));
  size_t seen = 0;
  const Generation g = session.write(sampler, {.max_tokens = 100}, [&](TokenId) {
    if (++seen == 3) std::raise(SIGINT);
  });
  EXPECT_EQ(g.stop, StopReason::kInterrupted);
  EXPECT_EQ(g.tokens, expected(text, 3));
  EXPECT_FALSE(session.read(std::vector<TokenId>{5}, 1, no_progress()));
  forget_interrupt();
  EXPECT_EQ(run(session, {5, 6}, {.max_tokens = 2}).generation.tokens, expected({5, 6}, 2));
  std::raise(SIGINT);  // the handler is there again
  EXPECT_TRUE(interrupted());
  forget_interrupt();
}

}  // namespace
}  // namespace nibble
