// Six tiny random checkpoints against the logits and greedy continuations that transformers computed for them in
// float32.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/threads.h"
#include "formats/safetensors.h"
#include "model/model.h"

namespace nibble {
namespace {

std::filesystem::path folder(const std::string& name) {
  return std::filesystem::path(NIBBLE_TEST_DATA) / "models" / name;
}

template <class T>
std::vector<T> values(const SafeTensorsFile& file, std::string_view name) {
  for (const SafeTensor& tensor : file.tensors) {
    if (tensor.name != name) continue;
    std::vector<T> result(tensor.view.bytes.size() / sizeof(T));
    std::memcpy(result.data(), tensor.view.bytes.data(), result.size() * sizeof(T));
    return result;
  }
  throw Error(ErrorKind::kCorrupt, cat("no ", name));
}

struct Golden {
  explicit Golden(const std::string& name) {
    const auto file = SafeTensorsFile::open(folder(name) / "golden.safetensors");
    for (const int64_t id : values<int64_t>(file, "input_ids")) ids.push_back(static_cast<TokenId>(id));
    for (const int64_t id : values<int64_t>(file, "greedy")) greedy.push_back(static_cast<TokenId>(id));
    logits = values<float>(file, "logits");
    tokens = ids.size() / 2;
    vocab = logits.size() / ids.size();
    for (const float logit : logits) largest = std::max(largest, std::abs(logit));
  }
  std::span<const TokenId> row(size_t r) const { return std::span(ids).subspan(r * tokens, tokens); }
  // Largest |difference| to row r's logits, as a part of the largest |logit| of all.
  float distance(size_t r, std::span<const float> got) const {
    float worst = 0;
    for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - logits[r * tokens * vocab + i]));
    return worst / largest;
  }

  std::vector<TokenId> ids, greedy;  // ids: [2, tokens]
  std::vector<float> logits;         // [2, tokens, vocab]
  size_t tokens = 0, vocab = 0;
  float largest = 0;
};

// Logits of `ids` fed `step` at a time.
std::vector<float> run(Model& model, std::span<const TokenId> ids, size_t step,
                       CacheType cache_type = CacheType::kF32) {
  const size_t vocab = model.config().vocab_size;
  std::vector<float> logits(ids.size() * vocab);
  const auto cache = model.make_cache(ids.size(), cache_type);
  for (size_t t = 0; t < ids.size(); t += step) {
    const size_t count = std::min(step, ids.size() - t);
    model.forward(ids.subspan(t, count), *cache, matrix(logits.data() + t * vocab, count, vocab));
  }
  return logits;
}

std::vector<TokenId> continue_greedily(Model& model, std::span<const TokenId> prompt, size_t count) {
  std::vector<float> logits(model.config().vocab_size);
  const auto cache = model.make_cache(prompt.size() + count, CacheType::kF32);
  std::vector<TokenId> result;
  model.forward(prompt, *cache, matrix(logits.data(), 1, logits.size()));
  while (result.size() < count) {
    if (!result.empty()) model.forward(std::span(&result.back(), 1), *cache, matrix(logits.data(), 1, logits.size()));
    result.push_back(static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  return result;
}

class GoldenModel : public testing::TestWithParam<const char*> {
 protected:
  GoldenModel() : golden(GetParam()), source(Source::open(folder(GetParam()))), model(Model::load(*source)) {}
  Golden golden;
  std::unique_ptr<Source> source;
  std::unique_ptr<Model> model;
};

TEST_P(GoldenModel, LogitsOfAWholePrompt) {
  for (size_t r = 0; r < 2; ++r)
    EXPECT_LT(golden.distance(r, run(*model, golden.row(r), golden.tokens)), 1e-4f) << "row " << r;
}

TEST_P(GoldenModel, LogitsFedInPieces) {
  for (const size_t step : {1u, 3u, 5u, 16u})
    for (size_t r = 0; r < 2; ++r)
      EXPECT_LT(golden.distance(r, run(*model, golden.row(r), step)), 1e-4f) << "row " << r << " by " << step;
}

TEST_P(GoldenModel, GreedyContinuation) {
  EXPECT_THAT(continue_greedily(*model, golden.row(0), golden.greedy.size()), testing::ElementsAreArray(golden.greedy));
}

TEST_P(GoldenModel, HalfPrecisionCaches) {
  for (const size_t step : {1u, 24u}) {
    EXPECT_LT(golden.distance(0, run(*model, golden.row(0), step, CacheType::kF16)), 2e-3f);
    EXPECT_LT(golden.distance(0, run(*model, golden.row(0), step, CacheType::kBF16)), 2e-2f);
  }
}

TEST_P(GoldenModel, HalfPrecisionWeights) {
  const auto f16 = Model::load(*source, {.dtype = DType::kF16, .replace = {}});
  const auto bf16 = Model::load(*source, {.dtype = DType::kBF16, .replace = {}});
  EXPECT_LT(f16->weight_bytes(), model->weight_bytes() * 6 / 10);
  EXPECT_LT(golden.distance(0, run(*f16, golden.row(0), 24)), 2e-3f);
  EXPECT_LT(golden.distance(0, run(*bf16, golden.row(0), 24)), 2e-2f);
}

TEST_P(GoldenModel, TruncatedCacheContinuesAsIfNothingHadFollowed) {
  const size_t vocab = golden.vocab;
  std::vector<float> logits(golden.tokens * vocab);
  const auto cache = model->make_cache(golden.tokens, CacheType::kF32);
  model->forward(golden.row(1), *cache, matrix(logits.data(), golden.tokens, vocab));
  cache->truncate(0);
  model->forward(golden.row(0), *cache, matrix(logits.data(), golden.tokens, vocab));
  EXPECT_EQ(cache->size(), golden.tokens);
  EXPECT_LT(golden.distance(0, logits), 1e-4f);
}

TEST_P(GoldenModel, SameBitsForAnyNumberOfThreads) {
  std::vector<std::vector<float>> results;
  for (const size_t threads : {1u, 2u, 5u}) {
    set_thread_count(threads);
    results.push_back(run(*model, golden.row(0), 24));
    const auto pieces = run(*model, golden.row(0), 1);
    results.back().insert(results.back().end(), pieces.begin(), pieces.end());
  }
  set_thread_count(0);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST_P(GoldenModel, BadRequestsAreRefused) {
  std::vector<float> logits(golden.vocab);
  const auto cache = model->make_cache(4, CacheType::kF32);
  const auto out = matrix(logits.data(), 1, logits.size());
  EXPECT_THROW(model->forward(golden.row(0), *cache, out), Error);
  EXPECT_THROW(model->forward(std::vector<TokenId>{-1}, *cache, out), Error);
  EXPECT_THROW(model->forward(std::vector<TokenId>{static_cast<TokenId>(golden.vocab)}, *cache, out), Error);
  EXPECT_THROW(model->forward({}, *cache, out), Error);
  EXPECT_THROW(model->make_cache(size_t{1} << 60, CacheType::kF32), Error);
}

INSTANTIATE_TEST_SUITE_P(Families, GoldenModel,
                         testing::Values("llama", "llama-tied-bias", "llama3-rope", "mistral-window", "qwen2", "qwen3"),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace nibble
