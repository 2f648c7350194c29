#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>

#include "core/test_folder.h"
#include "core/threads.h"
#include "pipeline/loaded_model.h"
#include "pipeline/tiny_model.h"

namespace {
std::atomic<size_t> allocations{0};
}

// Of the whole test program, to count. Sanitizers ask for every form that may free what another returns; a compiler
// that inlined one of a pair would see free() meet operator new.
[[gnu::noinline]] void* operator new(size_t bytes) {
  ++allocations;
  if (void* const p = std::malloc(std::max<size_t>(bytes, 1))) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(std::max<size_t>(bytes, 1));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }

namespace nibble {
namespace {

class TokenLoop : public testing::Test {
 protected:
  TokenLoop() {
    // Token kQuiet is all zeros and stays so: it has no outliers. The first norm gives the others some.
    TinyModel model;
    model.edit = [&](const std::string& name, std::vector<float>& values) {
      if (name == "model.embed_tokens.weight") std::fill_n(values.begin() + kQuiet * 64, 64, 0.0f);
      if (name == "model.layers.0.input_layernorm.weight") values[5] = values[40] = 10.0f;
    };
    model.write(folder_ / "model");
    set_thread_count(1);  // which of several threads takes a range, and when it needs its memory, is left to chance
  }
  ~TokenLoop() override { set_thread_count(0); }

  LoadedModel load(Compute compute, const std::string& scheme) const {
    ModelChoices choices;
    choices.compute = compute;
    choices.scheme = scheme;
    choices.copy_dense = true;
    return load_model(folder_ / "model", choices, no_progress());
  }

  static std::vector<float> logits_of(Model& model, std::span<const TokenId> tokens) {
    const size_t vocab = model.config().vocab_size;
    std::vector<float> logits(tokens.size() * vocab);
    const auto cache = model.make_cache(tokens.size(), CacheType::kF32);
    model.forward(tokens, *cache, matrix(logits.data(), tokens.size(), vocab));
    return logits;
  }

  static constexpr TokenId kQuiet = 3;
  TestFolder folder_;
};

TEST_F(TokenLoop, AllocatesNothingAfterTheFirstToken) {
  for (const char* scheme : {"int4-asym-g32", "W8A16", "NF4", ""}) {
    for (const CacheType type : {CacheType::kF32, CacheType::kF16, CacheType::kQ8, CacheType::kQ4}) {
      const LoadedModel loaded = load(Compute::kAuto, scheme);
      std::vector<float> logits(loaded.model->config().vocab_size);
      const auto cache = loaded.model->make_cache(32, type);
      const auto decode = [&](TokenId token) {
        loaded.model->forward(std::span(&token, 1), *cache, matrix(logits.data(), 1, logits.size()));
      };
      decode(kQuiet);
      const size_t before = allocations;
      for (TokenId token = 4; token < 24; ++token) decode(token);
      EXPECT_EQ(allocations - before, 0u) << scheme << ", cache " << static_cast<int>(type);
    }
  }
}

// At a tolerance of 0 no weight may stay: what is computed then is what fp32 computes.
TEST_F(TokenLoop, ReplacedWeightsComputeInFloat) {
  const std::vector<TokenId> tokens = {3, 77, 20, 5, 126, 64, 9};
  const LoadedModel int8 = load(Compute::kInt8, "int4-asym-g32"), fp32 = load(Compute::kFp32, "int4-asym-g32");
  const std::vector<float> want = logits_of(*fp32.model, tokens), before = logits_of(*int8.model, tokens);
  const auto distance = [&](const std::vector<float>& logits) {
    double sum = 0, of = 0;
    for (size_t i = 0; i < want.size(); ++i)
      sum += std::pow(double(logits[i]) - want[i], 2), of += std::pow(double(want[i]), 2);
    return std::sqrt(sum / of);
  };
  EXPECT_GT(distance(before), 1e-4);

  const std::vector<ProductCheck> checks = int8.model->check_products(tokens, 0.0);
  EXPECT_EQ(checks.size(), 2u * 7);  // of two layers; lm_head is not quantized
  for (const ProductCheck& check : checks) {
    EXPECT_GT(check.error, 0) << check.name;
    EXPECT_TRUE(check.replaced) << check.name;
  }
  EXPECT_LT(distance(logits_of(*int8.model, tokens)), 1e-6);
  EXPECT_TRUE(int8.model->check_products(tokens, 0.0).empty());  // none is left
}

// A weight within the tolerance stays as it is.
TEST_F(TokenLoop, OnlyWeightsBeyondTheToleranceAreReplaced) {
  const std::vector<TokenId> tokens = {3, 77, 20, 5, 126, 64, 9};
  const LoadedModel loaded = load(Compute::kInt8, "int4-asym-g32");
  std::vector<ProductCheck> checks = load(Compute::kInt8, "int4-asym-g32").model->check_products(tokens, 1e9);
  const auto replaced = [](const ProductCheck& check) { return check.replaced; };
  EXPECT_EQ(std::count_if(checks.begin(), checks.end(), replaced), 0);
  std::sort(checks.begin(), checks.end(), [](const auto& a, const auto& b) { return a.error < b.error; });
  const double middle = checks[checks.size() / 2].error;
  checks = loaded.model->check_products(tokens, middle);
  EXPECT_EQ(std::count_if(checks.begin(), checks.end(), replaced), 6);
  EXPECT_EQ(loaded.model->check_products(tokens, 0).size(), 14u - 6);
}

}  // namespace
}  // namespace nibble
