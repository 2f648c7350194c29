// Products with weights on one thread, against what this CPU can do: "peak" entries multiply operands that stay in the
// first-level cache, "read" streams a large buffer. `matrix_bench --benchmark_filter=bf16` runs a part. "flops"
// and "bytes" are per second; bytes are those of the weight.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"
#include "core/weight_memory.h"
#include "kernels/bf16.h"
#include "kernels/gemm.h"
#include "kernels/grid_rows.h"
#include "kernels/kernels.h"
#include "kernels/row_products.h"

namespace nibble::kernels {
namespace {

using benchmark::Counter;
using benchmark::State;

std::vector<float> random_floats(size_t n) {
  Random random(1);
  std::vector<float> out(n);
  for (float& value : out) value = static_cast<float>(random.uniform() - 0.5);
  return out;
}

std::vector<uint16_t> random_halves(size_t n) {
  std::vector<uint16_t> out;
  out.reserve(n);
  for (const float value : random_floats(n)) out.push_back(f32_to_bf16(value));
  return out;
}

constexpr size_t kInMemory = size_t{128} << 20;  // bytes
// Bits of a weight, no denormal in any type: some CPUs take 20 times as long for those.
constexpr uint16_t kNormal = 0x3c00;

void count(State& state, const char* what, size_t amount) {
  state.counters[what] = Counter(static_cast<double>(amount), Counter::kIsIterationInvariantRate, Counter::kIs1000);
}

template <class T>
struct Weight {
  std::vector<T> values;
  size_t cols;
  static void load(const void* self, size_t row, size_t begin, size_t n, T* out) noexcept {
    const auto& weight = *static_cast<const Weight*>(self);
    std::copy_n(weight.values.data() + row * weight.cols + begin, n, out);
  }
};

struct Shape {
  size_t tokens, rows, depth;
  explicit Shape(const State& state)
      : tokens(static_cast<size_t>(state.range(0))),
        rows(static_cast<size_t>(state.range(1))),
        depth(static_cast<size_t>(state.range(2))) {}
};

// A tile whose operands stay in the first-level cache: the most that gemm can reach.
void peak_f32(State& state, const Table* table) {
  constexpr size_t kDepth = 64;
  const std::vector<float> x = random_floats(table->tile_tokens * kDepth), w = random_floats(kDepth * table->tile_rows);
  std::vector<float> y(table->tile_tokens * table->tile_rows);
  for (auto _ : state)
    table->gemm_tile(x.data(), kDepth, w.data(), kDepth, y.data(), table->tile_rows, table->tile_tokens, false);
  count(state, "flops", 2 * y.size() * kDepth);
}

void peak_bf16(State& state, const Table* table) {
  constexpr size_t kPairs = 64;
  const Bf16Table& units = *find_bf16(*table);
  const std::vector<uint16_t> x = random_halves(units.tile_tokens * kPairs * 2);
  struct alignas(64) Line {
    uint16_t halves[32];
  };
  std::vector<Line> w(kPairs * units.tile_rows / 16);
  std::vector<float> y(units.tile_tokens * units.tile_rows);
  for (auto _ : state)
    units.gemm_tile(x.data(), kPairs * 2, w[0].halves, kPairs, y.data(), units.tile_rows, units.tile_tokens, false);
  count(state, "flops", 4 * y.size() * kPairs);
}

void gemm_f32(State& state, const Table* table) {
  const Shape shape(state);
  const Weight<float> w = {random_floats(shape.rows * shape.depth), shape.depth};
  const std::vector<float> x = random_floats(shape.tokens * shape.depth);
  std::vector<float> y(shape.tokens * shape.rows);
  for (auto _ : state)
    gemm(*table, matrix(x.data(), shape.tokens, shape.depth), {&w, w.load}, nullptr,
         matrix(y.data(), shape.tokens, shape.rows));
  count(state, "flops", 2 * shape.tokens * shape.rows * shape.depth);
}

void gemm_bf16(State& state, const Table* table) {
  const Shape shape(state);
  const Weight<uint16_t> w = {random_halves(shape.rows * shape.depth), shape.depth};
  const std::vector<float> x = random_floats(shape.tokens * shape.depth);
  std::vector<float> y(shape.tokens * shape.rows);
  for (auto _ : state)
    gemm_bf16(*table, find_bf16(*table), matrix(x.data(), shape.tokens, shape.depth), {&w, w.load}, nullptr,
              matrix(y.data(), shape.tokens, shape.rows));
  count(state, "flops", 2 * shape.tokens * shape.rows * shape.depth);
}

// A plain loop over a large buffer: eight vectors at a time, or what the compiler makes of it.
void read(State& state) {
  const auto memory = weight_memory(kInMemory);
  constexpr size_t kWords = kInMemory / sizeof(uint64_t);
  uint64_t* const data = reinterpret_cast<uint64_t*>(memory.get());
  std::fill_n(data, kWords, uint64_t{1});
  for (auto _ : state) {
    uint64_t sums[32] = {};
    for (size_t i = 0; i < kWords; i += std::size(sums))
      for (size_t k = 0; k < std::size(sums); ++k) sums[k] ^= data[i + k];
    benchmark::DoNotOptimize(sums);
  }
  count(state, "bytes", kInMemory);
}

// state.range(0) tokens times a weight of kInMemory bytes with rows of state.range(1).
template <class Element, void (*RowTable::*Products)(const DenseRows&) noexcept>
void rows(State& state, const Table* table) {
  const auto tokens = static_cast<size_t>(state.range(0)), cols = static_cast<size_t>(state.range(1));
  const size_t n = kInMemory / sizeof(Element) / cols;
  const auto memory = weight_memory(kInMemory);
  Element* const w = reinterpret_cast<Element*>(memory.get());
  std::fill_n(w, n * cols, static_cast<Element>(kNormal));
  const std::vector<float> x = random_floats(tokens * cols);
  std::vector<float> y(tokens * n);
  const auto products = row_table(*table).*Products;
  for (auto _ : state) products({w, n, cols, x.data(), tokens, cols, y.data(), n});
  count(state, "bytes", n * cols * sizeof(Element));
}

// state.range(0) tokens times kInMemory / 2 bytes of codes with rows of state.range(1) and groups of state.range(2).
template <int Bits>
void grid(State& state, const Table* table) {
  const auto tokens = static_cast<size_t>(state.range(0)), cols = static_cast<size_t>(state.range(1)),
             group = static_cast<size_t>(state.range(2));
  const size_t stride = cols * Bits / 8, n = kInMemory / 2 / stride, groups = cols / group;
  const auto memory = weight_memory(n * stride);
  uint8_t* const codes = reinterpret_cast<uint8_t*>(memory.get());
  std::fill_n(codes, n * stride, uint8_t{0x42});
  const std::vector<float> scales = random_floats(n * groups), levels = random_floats(16);
  const std::vector<float> x = random_floats(tokens * cols);
  std::vector<float> y(tokens * n);
  const GridTable& grids = grid_table(*table);
  const GridRows p = {codes, stride, n, cols, scales.data(), groups, group, x.data(), tokens, cols, y.data(), n};
  for (auto _ : state)
    if constexpr (Bits == 4)
      grids.levels(p, levels.data());
    else
      grids.fp8(p);
  count(state, "bytes", n * (stride + groups * sizeof(float)));
}

// The same, one dot product for each row and token.
void dots(State& state, const Table* table) {
  const auto tokens = static_cast<size_t>(state.range(0)), cols = static_cast<size_t>(state.range(1));
  const size_t n = kInMemory / sizeof(uint16_t) / cols;
  const auto memory = weight_memory(kInMemory);
  uint16_t* const w = reinterpret_cast<uint16_t*>(memory.get());
  std::fill_n(w, n * cols, kNormal);
  const std::vector<float> x = random_floats(tokens * cols);
  std::vector<float> y(tokens * n);
  for (auto _ : state)
    for (size_t r = 0; r < n; ++r)
      for (size_t t = 0; t < tokens; ++t) y[t * n + r] = table->dot_bf16(w + r * cols, x.data() + t * cols, cols);
  count(state, "bytes", n * cols * sizeof(uint16_t));
}

void register_all() {
  benchmark::RegisterBenchmark("read", read);
  for (const Table* table : available()) {
    const auto add = [&](const char* name, void (*run)(State&, const Table*)) {
      return benchmark::RegisterBenchmark((std::string(table->name) + "/" + name).c_str(), run, table);
    };
    const auto add_gemm = [&](const char* name, void (*run)(State&, const Table*)) {
      auto* const gemms = add(name, run);
      for (const int tokens : {8, 16, 64, 512}) gemms->Args({tokens, 2048, 2048});
      gemms->Args({512, 576, 576})->Args({512, 1536, 576})->Args({512, 576, 1536})->Args({64, 49152, 576});
    };
    add("peak_f32", peak_f32);
    add_gemm("gemm_f32", gemm_f32);
    if (find_bf16(*table) != nullptr) add("peak_bf16", peak_bf16);
    add_gemm("gemm_bf16", gemm_bf16);
    const auto add_rows = [&](const char* name, void (*run)(State&, const Table*)) {
      auto* const products = add(name, run);
      for (const int tokens : {1, 2, 4, 8}) products->Args({tokens, 2048});
      products->Args({1, 576});
    };
    add_rows("rows_f32", rows<float, &RowTable::f32>);
    add_rows("rows_f16", rows<uint16_t, &RowTable::f16>);
    add_rows("rows_bf16", rows<uint16_t, &RowTable::bf16>);
    add_rows("dots_bf16", dots);
    const auto add_grid = [&](const char* name, void (*run)(State&, const Table*)) {
      auto* const products = add(name, run);
      for (const int tokens : {1, 2, 4, 8}) products->Args({tokens, 2048, 64});
      for (const int group : {16, 32, 128, 2048}) products->Args({1, 2048, group});
    };
    add_grid("levels", grid<4>);
    add_grid("fp8", grid<8>);
  }
}

}  // namespace
}  // namespace nibble::kernels

int main(int argc, char** argv) {
  nibble::set_thread_count(1);
  nibble::kernels::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
