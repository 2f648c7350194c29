// What calibrated rounding costs: factoring the inputs' Gram matrix and rounding with it. "flops" per CPU second of all
// threads: columns^3 / 3 for a factor, rows x columns^2 for rounding (the least that it needs, whatever else it does).
// `gptq_bench --benchmark_filter=factor/2048` runs a part.
#include <benchmark/benchmark.h>

#include <vector>

#include "algo/algorithm.h"
#include "core/random.h"
#include "quant/output_error.h"

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

// 64 rows, as the pipeline's slices have them.
void round(benchmark::State& state, const char* name, const AlgorithmSettings& settings, const QuantSpec& spec) {
  constexpr size_t kRows = 64;
  const auto cols = static_cast<size_t>(state.range(0));
  const auto algorithm = make_algorithm(name, settings);
  const InputFactor factor = factor_inputs(inputs(cols), algorithm->factor_options(spec));
  Random random(2);
  std::vector<float> w(kRows * cols);
  for (float& x : w) x = static_cast<float>(random.uniform() + random.uniform() + random.uniform() - 1.5);
  for (auto _ : state)
    benchmark::DoNotOptimize(algorithm->quantize({matrix<const float>(w.data(), kRows, cols), spec, {}, &factor}));
  const auto n = static_cast<double>(cols);
  state.counters["flops"] = benchmark::Counter(kRows * n * n, benchmark::Counter::kIsIterationInvariantRate);
}

void measure(benchmark::State& state) {
  constexpr size_t kRows = 64;
  const auto cols = static_cast<size_t>(state.range(0));
  const InputFactor factor = factor_inputs(inputs(cols), {});
  const std::vector<float> w(kRows * cols, 1.0f);
  for (auto _ : state) benchmark::DoNotOptimize(output_error(factor, matrix<const float>(w.data(), kRows, cols)));
  const auto n = static_cast<double>(cols);
  state.counters["flops"] = benchmark::Counter(kRows * n * n, benchmark::Counter::kIsIterationInvariantRate);
}

const QuantSpec kFour{.bits = 4, .group = 64}, kThree{.bits = 3, .group = 64, .symmetric = false};
const AlgorithmSettings kRoundOnly = {{"mse", 0}, {"refit", 0}}, kRefitted = {{"mse", 0}};

BENCHMARK_CAPTURE(round, search_int4, "search", {}, kFour)->Arg(576)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(round, search_int3_asym, "search", {}, kThree)->Arg(576)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(round, gptq_only, "gptq", kRoundOnly, kFour)
    ->Arg(576)
    ->Arg(1536)
    ->Arg(8192)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(round, gptq_refit, "gptq", kRefitted, kFour)
    ->Arg(576)
    ->Arg(1536)
    ->Arg(8192)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(round, gptq_int4, "gptq", {}, kFour)->Arg(576)->Arg(1536)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(round, gptq_int3_asym, "gptq", {}, kThree)->Arg(576)->Arg(1536)->Unit(benchmark::kMillisecond);
BENCHMARK(measure)->Arg(576)->Arg(1536)->Arg(8192)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace nibble

BENCHMARK_MAIN();
