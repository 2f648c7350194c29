// Every kernel that decides the speed of the toolkit, with every table of this CPU on one thread. `kernels_bench
// --benchmark_filter=avx512/gemm` runs a part. "flops" and "bytes" are per second; "peak" is what the FMA units can do.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "core/random.h"
#include "core/threads.h"
#include "kernels/gemm.h"
#include "kernels/kernels.h"

namespace nibble::kernels {
namespace {

using benchmark::Counter;
using benchmark::State;

constexpr size_t kInCache = 4096;
constexpr size_t kInMemory = size_t{1} << 25;

std::vector<float> random_floats(size_t n) {
  Random random(1);
  std::vector<float> out(n);
  for (float& value : out) value = static_cast<float>(random.uniform() - 0.5);
  return out;
}

void count(State& state, const char* what, size_t amount) {
  state.counters[what] = Counter(static_cast<double>(amount), Counter::kIsIterationInvariantRate, Counter::kIs1000);
}

// A tile whose operands stay in the first-level cache: the most that gemm can reach.
void peak(State& state, const Table* table) {
  constexpr size_t kDepth = 64;
  const std::vector<float> x = random_floats(table->tile_tokens * kDepth), w = random_floats(kDepth * table->tile_rows);
  std::vector<float> y(table->tile_tokens * table->tile_rows);
  for (auto _ : state)
    table->gemm_tile(x.data(), kDepth, w.data(), kDepth, y.data(), table->tile_rows, table->tile_tokens, false);
  count(state, "flops", 2 * y.size() * kDepth);
}

void gemm_f32(State& state, const Table* table) {
  const auto tokens = static_cast<size_t>(state.range(0)), rows = static_cast<size_t>(state.range(1)),
             depth = static_cast<size_t>(state.range(2));
  struct Weight {
    std::vector<float> values;
    size_t cols;
  };
  const Weight w = {random_floats(rows * depth), depth};
  const RowLoader loader = {&w, [](const void* self, size_t row, size_t begin, size_t n, float* out) noexcept {
                              const auto& weight = *static_cast<const Weight*>(self);
                              std::copy_n(weight.values.data() + row * weight.cols + begin, n, out);
                            }};
  const std::vector<float> x = random_floats(tokens * depth);
  std::vector<float> y(tokens * rows);
  for (auto _ : state) gemm(*table, matrix(x.data(), tokens, depth), loader, nullptr, matrix(y.data(), tokens, rows));
  count(state, "flops", 2 * tokens * rows * depth);
}

// Rows of 2,048 from a weight of state.range(0) elements, as a decoding step reads them.
template <class Element, float (*Table::*Dot)(const Element*, const float*, size_t) noexcept>
void dot(State& state, const Table* table) {
  const auto n = static_cast<size_t>(state.range(0));
  constexpr size_t kRow = 2048;
  const std::vector<Element> w(n, Element{1});
  const std::vector<float> x = random_floats(kRow);
  for (auto _ : state)
    for (size_t i = 0; i < n; i += kRow) benchmark::DoNotOptimize((table->*Dot)(w.data() + i, x.data(), kRow));
  count(state, "bytes", n * sizeof(Element));
}

void unpack(State& state, const Table* table) {
  const auto bits = static_cast<int>(state.range(0));
  const std::vector<uint8_t> packed(kInCache, 0x5a);
  std::vector<uint8_t> codes(kInCache);
  for (auto _ : state) table->unpack_codes(packed.data(), bits, 0, codes.size(), codes.data());
  count(state, "codes", codes.size());
}

void scale(State& state, const Table* table) {
  const std::vector<uint8_t> codes(kInCache, 3);
  std::vector<float> out(kInCache);
  for (auto _ : state) table->scale_codes(codes.data(), 0.1f, 8, out.data(), out.size());
  count(state, "codes", out.size());
}

void encode(State& state, const Table* table) {
  const std::vector<float> x = random_floats(kInCache);
  std::vector<uint8_t> codes(kInCache);
  for (auto _ : state) table->encode(x.data(), x.size(), 0.1f, 8, 0, 15, codes.data());
  count(state, "codes", codes.size());
}

void softmax(State& state, const Table* table) {
  std::vector<float> x = random_floats(kInCache);
  for (auto _ : state) table->softmax(x.data(), x.size());
  count(state, "elements", x.size());
}

void divergence(State& state, const Table* table) {
  const std::vector<float> x = random_floats(49152);
  for (auto _ : state) benchmark::DoNotOptimize(table->kl_divergence(x.data(), 11, x.data(), 11, x.size()));
  count(state, "elements", x.size());
}

void register_all() {
  for (const Table* table : available()) {
    const auto add = [&](const char* name, void (*run)(State&, const Table*)) {
      return benchmark::RegisterBenchmark((std::string(table->name) + "/" + name).c_str(), run, table);
    };
    add("peak", peak);
    for (const int tokens : {8, 64, 512}) add("gemm", gemm_f32)->Args({tokens, 2048, 2048});
    add("gemm", gemm_f32)->Args({512, 1536, 576});
    for (const size_t n : {kInCache, kInMemory}) {
      const auto elements = static_cast<int64_t>(n);
      add("dot_f32", dot<float, &Table::dot_f32>)->Arg(elements);
      add("dot_f16", dot<uint16_t, &Table::dot_f16>)->Arg(elements);
      add("dot_bf16", dot<uint16_t, &Table::dot_bf16>)->Arg(elements);
    }
    for (const int bits : {2, 3, 4, 8}) add("unpack", unpack)->Arg(bits);
    add("scale", scale);
    add("encode", encode);
    add("softmax", softmax);
    add("divergence", divergence);
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
