// What calibrated rounding costs: factoring the inputs' Gram matrix and rounding with it. "flops" per CPU second of all
// threads: columns^3 / 3 for a factor. `gptq_bench --benchmark_filter=factor/2048` runs a part.
#include <benchmark/benchmark.h>

#include "core/random.h"
#include "quant/input_stats.h"

namespace nibble {
namespace {

// A diagonally dominant Gram matrix: cheap to make, and no faster to factor than another.
InputStats inputs(size_t cols) {
  Random random(1);
  InputStats stats;
  stats.cols = cols;
  stats.gram.reserve(cols * (cols + 1) / 2);
  for (size_t r = 0; r < cols; ++r)
    for (size_t c = 0; c <= r; ++c)
      stats.gram.push_back(r == c ? 1 + random.uniform() : (random.uniform() - 0.5) / static_cast<double>(cols));
  return stats;
}

void factor(benchmark::State& state, ColumnOrder order) {
  const auto cols = static_cast<size_t>(state.range(0));
  const InputStats stats = inputs(cols);
  for (auto _ : state) {
    state.PauseTiming();
    InputStats copy = stats;
    state.ResumeTiming();
    benchmark::DoNotOptimize(factor_inputs(std::move(copy), {.order = order}));
  }
  const auto n = static_cast<double>(cols);
  state.counters["flops"] = benchmark::Counter(n * n * n / 3, benchmark::Counter::kIsIterationInvariantRate);
}

BENCHMARK_CAPTURE(factor, natural, ColumnOrder::kNatural)
    ->Arg(576)
    ->Arg(1536)
    ->Arg(2048)
    ->Arg(8192)
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(factor, act_order, ColumnOrder::kActOrder)
    ->Arg(576)
    ->Arg(1536)
    ->Arg(2048)
    ->Arg(8192)
    ->MeasureProcessCPUTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace nibble

BENCHMARK_MAIN();
