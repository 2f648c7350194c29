// Products with one weight on one thread: "bytes" is what the weight holds, read once per product; "flops" per second.
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/random.h"
#include "core/threads.h"
#include "quant/weight_matrix.h"

namespace nibble {
namespace {

using benchmark::Counter;
using benchmark::State;

// 16M weights: no cache holds them in float.
constexpr size_t kRows = 4096;
constexpr size_t kCols = 4096;

WeightMatrix dense(DType dtype) {
  auto bytes = std::make_shared<std::vector<std::byte>>(byte_size(dtype, kRows * kCols));
  return WeightMatrix(DenseMatrix{dtype, kRows, kCols, bytes->data(), bytes});
}

WeightMatrix packed(const QuantSpec& spec) {
  QuantizedMatrix slice;
  slice.spec = spec;
  slice.rows = 1;
  slice.cols = kCols;
  slice.codes.assign(kCols, 1);
  slice.scales.assign(slice.groups(), 0.1f);
  if (spec.mins) slice.mins.assign(slice.groups(), -0.8f);
  PackedMatrixBuilder builder(spec, kRows, kCols);
  for (size_t r = 0; r < kRows; ++r) builder.add(r, slice);
  return WeightMatrix(builder.finish());
}

void product(State& state, const WeightMatrix& weight) {
  const auto tokens = static_cast<size_t>(state.range(0));
  Random random(1);
  std::vector<float> x(tokens * kCols), y(tokens * kRows);
  for (float& value : x) value = static_cast<float>(random.uniform() - 0.5);
  for (auto _ : state)
    multiply(weight, matrix<const float>(x.data(), tokens, kCols), nullptr, matrix(y.data(), tokens, kRows));
  const auto rate = [&](double amount) { return Counter(amount, Counter::kIsIterationInvariantRate); };
  state.counters["bytes"] = rate(static_cast<double>(weight.bytes()));
  state.counters["flops"] = rate(2.0 * static_cast<double>(tokens * kRows * kCols));
}

void add(const std::string& name, const WeightMatrix& weight) {
  for (const int tokens : {1, 4, 8, 12, 16, 24, 64})
    benchmark::RegisterBenchmark(name.c_str(), product, weight)->Arg(tokens);
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  using namespace nibble;
  set_thread_count(1);
  add("f32", dense(DType::kF32));
  add("f16", dense(DType::kF16));
  add("bf16", dense(DType::kBF16));
  add("int4_g32_min", packed({.bits = 4, .group = 32, .symmetric = false, .mins = true}));
  add("int4_g128", packed({.bits = 4, .group = 128}));
  add("int8_row", packed({.bits = 8, .group = QuantSpec::kWholeRow}));
  add("nf4_g64", packed({.bits = 4, .group = 64, .grid = Grid::kNF4}));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
