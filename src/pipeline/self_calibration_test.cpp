#include "pipeline/self_calibration.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "core/test_errors.h"
#include "core/test_folder.h"
#include "core/threads.h"
#include "pipeline/calibration_data.h"
#include "pipeline/tiny_model.h"

namespace nibble {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;
using Texts = std::vector<std::vector<TokenId>>;

std::vector<TokenId> some_tokens(size_t count, size_t vocab, uint64_t seed) {
  Random random(seed);
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random.next() % vocab);
  return tokens;
}

class SelfCalibration : public testing::Test {
 protected:
  SelfCalibration() { tiny_.write(folder_.path()); }
  ~SelfCalibration() override { set_thread_count(0); }
  std::unique_ptr<Model> model(LoadOptions options = {}) {
    source_ = Source::open(folder_.path());
    return Model::load(*source_, options);
  }

  TestFolder folder_;
  TinyModel tiny_;
  std::unique_ptr<Source> source_;
};

TEST_F(SelfCalibration, ABatchGivesWhatOneSequenceAfterTheOtherGives) {
  const auto decoder = model();
  const size_t vocab = tiny_.vocab;
  for (const CacheType type : {CacheType::kF32, CacheType::kF16, CacheType::kQ8, CacheType::kQ4})
    for (const size_t width : {size_t{1}, size_t{3}, size_t{40}}) {
      std::vector<std::unique_ptr<KvCache>> one, together;
      std::vector<KvCache*> caches;
      for (size_t i = 0; i < width; ++i) {  // pasts of different lengths, some of more than one part of the attention
        const auto past = some_tokens(1 + i * 300 % 350, vocab, i);
        std::vector<float> logits(vocab);
        for (auto* list : {&one, &together}) {
          list->push_back(decoder->make_cache(past.size() + 4, type));
          decoder->forward(past, *list->back(), matrix(logits.data(), 1, vocab));
        }
        caches.push_back(together.back().get());
      }
      for (uint64_t step = 0; step < 4; ++step) {
        const auto tokens = some_tokens(width, vocab, 100 + step);
        std::vector<float> want(width * vocab), got(width * vocab);
        for (size_t i = 0; i < width; ++i)
          decoder->forward(std::span(tokens).subspan(i, 1), *one[i], matrix(want.data() + i * vocab, 1, vocab));
        decoder->forward_batch(tokens, caches, matrix(got.data(), width, vocab));
        // Differently rounded keys may fall into the next step of a quantized cache.
        const float tolerance = type == CacheType::kF32 ? 2e-6f : type == CacheType::kQ4 ? 0.05f : 0.005f;
        for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], tolerance) << width << " " << step;
      }
      for (size_t i = 0; i < width; ++i) EXPECT_EQ(together[i]->size(), one[i]->size());
    }
}

TEST_F(SelfCalibration, ABatchIsChecked) {
  const auto decoder = model();
  const auto a = decoder->make_cache(2, CacheType::kF32), b = decoder->make_cache(1, CacheType::kF32);
  KvCache* const caches[] = {a.get(), b.get()};
  std::vector<float> logits(2 * tiny_.vocab);
  const auto run = [&](std::vector<TokenId> tokens) {
    decoder->forward_batch(tokens, caches, matrix(logits.data(), 2, tiny_.vocab));
  };
  EXPECT_THAT(error_text([&] { run({1, 128}); }), HasSubstr("token id 128"));
  run({1, 2});
  EXPECT_THAT(error_text([&] { run({1, 2}); }), HasSubstr("the context is full: 1 + 1 tokens"));
  EXPECT_EQ(a->size(), 1u);
}

TEST_F(SelfCalibration, SaysWhenALayerWasRead) {
  std::vector<size_t> layers;
  LoadOptions options;
  options.layer_done = [&](size_t layer) { layers.push_back(layer); };
  const auto decoder = model(options);
  std::vector<float> logits(tiny_.vocab);
  decoder->forward(std::vector<TokenId>{1, 2}, *decoder->make_cache(2, CacheType::kF32),
                   matrix(logits.data(), 1, tiny_.vocab));
  EXPECT_THAT(layers, ElementsAre(0, 1, 2));
}

TEST_F(SelfCalibration, TextsAreThoseOfEachSequenceAlone) {
  const auto decoder = model();
  const Texts texts =
      sample_texts(*decoder, {.count = 5, .length = 40, .seed = 3, .cache = CacheType::kF32}, no_progress());
  EXPECT_THAT(texts, SizeIs(5));
  EXPECT_THAT(texts, Each(SizeIs(40)));
  Random seeds(3);
  for (const auto& text : texts) {
    Random random(seeds.next());
    EXPECT_EQ(text.front(), static_cast<TokenId>(seeds.next() % tiny_.vocab));
    const auto cache = decoder->make_cache(40, CacheType::kF32);
    for (size_t i = 0; i + 1 < text.size(); ++i) {  // the inverse of the cumulative distribution, in double
      std::vector<float> logits(tiny_.vocab);
      decoder->forward(std::span(text).subspan(i, 1), *cache, matrix(logits.data(), 1, tiny_.vocab));
      double total = 0, sum = 0;
      for (const float logit : logits) total += std::exp(static_cast<double>(logit));
      const double uniform = random.uniform();
      size_t token = 0;
      while ((sum += std::exp(static_cast<double>(logits[token])) / total) <= uniform) ++token;
      ASSERT_EQ(text[i + 1], static_cast<TokenId>(token)) << i;
    }
  }
}

TEST_F(SelfCalibration, DependsOnTheSeedAndNotOnTheThreads) {
  const auto source = Source::open(folder_.path());
  const auto load = [&](size_t threads, uint64_t seed) {
    set_thread_count(threads);
    return load_calibration(*source, {"self", 6, 20, seed}, no_progress());
  };
  const CalibrationData data = load(1, 0);
  EXPECT_THAT(data.documents, SizeIs(6));
  EXPECT_THAT(data.documents, Each(SizeIs(20)));
  EXPECT_EQ(data.source, "self (seed 0)");
  EXPECT_EQ(load(2, 0).documents, data.documents);
  EXPECT_NE(load(2, 1).documents, data.documents);
}

TEST_F(SelfCalibration, BosComesFirstWhereItIsAskedFor) {
  const auto source = Source::open(folder_.path());
  EXPECT_THAT(error_text([&] {
                load_calibration(*source, {"self", 2, 4, 0, BosChoice::kYes}, no_progress());
              }),
              HasSubstr("BOS"));
  Json config = read_json_file(folder_ / "config.json");
  config["bos_token_id"] = 5;
  write_text_file(folder_ / "config.json", config.dump());
  const auto with = Source::open(folder_.path());
  for (const auto& document : load_calibration(*with, {"self", 3, 4, 0, BosChoice::kYes}, no_progress()).documents)
    EXPECT_EQ(document.front(), 5);
}

class FakeCache final : public KvCache {
 public:
  size_t size() const override { return 0; }
  size_t capacity() const override { return 1 << 20; }
  void truncate(size_t) override {}
};

// The same logits for every token.
class ConstantModel final : public Model {
 public:
  explicit ConstantModel(std::vector<float> logits) : logits_(std::move(logits)) { shape.vocab_size = logits_.size(); }
  const ModelConfig& config() const override { return shape; }
  size_t weight_bytes() const override { return 0; }
  size_t token_bytes() const override { return 0; }
  std::vector<ProductCheck> check_products(std::span<const TokenId>, double) override { return {}; }
  std::unique_ptr<KvCache> make_cache(size_t, CacheType) const override { return std::make_unique<FakeCache>(); }
  void forward(std::span<const TokenId>, KvCache&, MatrixView<float> logits) override {
    std::copy(logits_.begin(), logits_.end(), logits.row(0));
  }
  void forward_batch(std::span<const TokenId> tokens, std::span<KvCache* const> caches,
                     MatrixView<float> logits) override {
    most = std::max(most, tokens.size());
    Model::forward_batch(tokens, caches, logits);
  }

  ModelConfig shape;
  size_t most = 0;  // sequences at a time

 private:
  std::vector<float> logits_;
};

TEST(SampleTexts, FollowTheDistribution) {
  std::vector<float> logits(2500, -std::numeric_limits<float>::infinity());
  const std::map<TokenId, double> want = {{0, 0.1}, {1023, 0.2}, {1024, 0.3}, {2499, 0.4}};
  for (const auto& [token, p] : want) logits[static_cast<size_t>(token)] = static_cast<float>(std::log(p)) + 7;
  ConstantModel model(logits);
  std::map<TokenId, double> share;
  for (const auto& text : sample_texts(model, {.count = 4, .length = 1001, .seed = 1}, no_progress()))
    for (size_t i = 1; i < text.size(); ++i) share[text[i]] += 1.0 / 4000;
  ASSERT_EQ(share.size(), want.size());
  for (const auto& [token, p] : want) EXPECT_NEAR(share[token], p, 0.03) << token;  // 4 standard deviations
}

TEST(SampleTexts, MoreTextsLeaveTheFirstOnesAsTheyAre) {
  ConstantModel model(std::vector<float>(50, 1.0f));
  const Texts two = sample_texts(model, {.count = 2, .length = 9, .seed = 7}, no_progress());
  const Texts three = sample_texts(model, {.count = 3, .length = 9, .seed = 7}, no_progress());
  EXPECT_EQ(two, (Texts{three[0], three[1]}));
  EXPECT_NE(two[0], two[1]);
}

TEST(SampleTexts, AsManyAtATimeAsFitInEqualParts) {
  ConstantModel model({1, 2});
  model.shape.layers = 8;
  model.shape.kv_heads = 1024;
  model.shape.head_dim = 128;  // 2 MiB of values of two bytes, and as much of keys, for each token
  const Texts texts = sample_texts(model, {.count = 27, .length = 8, .cache = CacheType::kF16}, no_progress());
  EXPECT_THAT(texts, SizeIs(27));
  EXPECT_THAT(texts, Each(SizeIs(8)));
  EXPECT_EQ(model.most, 9u);  // 9.99 fit: three parts of 9
}

TEST(SampleTexts, RefuseLogitsThatAreNotNumbers) {
  ConstantModel model({1, NAN});
  EXPECT_EQ(error_kind([&] { sample_texts(model, {.count = 1, .length = 2}, no_progress()); }), ErrorKind::kCorrupt);
}

}  // namespace
}  // namespace nibble
