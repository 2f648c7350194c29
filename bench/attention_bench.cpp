// Attention of one layer on one thread, by type of the cache: `attention_bench --benchmark_filter=q4`. Arguments: query
// heads, kv heads, columns of a head, tokens in the cache before, tokens of the pass. "flops" counts two for each
// multiplication of a score or weight that is needed, "bytes" what the cache holds of the positions seen.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/random.h"
#include "core/threads.h"
#include "model/attention.h"

namespace nibble {
namespace {

using benchmark::Counter;

std::vector<float> random_floats(size_t count) {
  Random random(1);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.uniform() * 2 - 1);
  return values;
}

void run(benchmark::State& state, CacheType type) {
  const auto heads = static_cast<size_t>(state.range(0)), kv_heads = static_cast<size_t>(state.range(1)),
             dim = static_cast<size_t>(state.range(2)), past = static_cast<size_t>(state.range(3)),
             tokens = static_cast<size_t>(state.range(4));
  SlabCache cache(1, kv_heads, dim, past + tokens, type);
  std::vector<float> key = random_floats(dim), value = key;
  const auto fill = [&](size_t count) {
    cache.begin_pass(count);
    for (size_t p = cache.size(); p < cache.size() + count; ++p)
      for (size_t h = 0; h < kv_heads; ++h) {
        std::rotate(key.begin(), key.begin() + 1, key.end());
        std::vector<float> k = key, v = value;
        cache.store(0, h, p, k.data(), v.data());
      }
  };
  for (size_t p = 0; p < past; p += 512) {
    const size_t count = std::min<size_t>(512, past - p);
    fill(count);
    cache.grow(count);
  }
  fill(tokens);
  const std::vector<float> queries = random_floats(tokens * heads * dim);
  std::vector<float> out(queries.size());
  AttentionSpace space;
  for (auto _ : state)
    attend(cache, {0, heads, past, 0, 0.1f}, matrix(queries.data(), tokens, heads * dim), space,
           matrix(out.data(), tokens, heads * dim));
  const size_t pairs = tokens * past + tokens * (tokens + 1) / 2;
  const auto per_second = [](size_t amount) {
    return Counter(static_cast<double>(amount), Counter::kIsIterationInvariantRate, Counter::kIs1000);
  };
  state.counters["flops"] = per_second(4 * pairs * heads * dim);
  constexpr double kBits[] = {32, 16, 16, 8.5, 4.5};
  const double bytes = kBits[static_cast<size_t>(type)] / 8 * static_cast<double>(2 * (past + tokens) * kv_heads * dim);
  state.counters["bytes"] = per_second(static_cast<size_t>(bytes));
}

void register_all() {
  for (const CacheType type : kCacheTypes)
    benchmark::RegisterBenchmark(std::string(name(type)).c_str(), run, type)
        ->Unit(benchmark::kMicrosecond)
        ->Args({9, 3, 64, 2047, 1})
        ->Args({32, 8, 64, 2047, 1})
        ->Args({32, 8, 128, 2047, 1})
        ->Args({16, 16, 64, 2047, 1})
        ->Args({9, 3, 64, 0, 512})
        ->Args({9, 3, 64, 1536, 512})
        ->Args({32, 8, 128, 0, 512});
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  nibble::set_thread_count(1);
  nibble::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
