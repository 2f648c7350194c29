// Compute level int8 on one thread, activations quantized in every product. "ops" (2 for each weight and token) and
// "bytes" (those of the weight) are per second; "peak" is what the active table's integer dot products can do with
// operands in registers. `int8_bench --benchmark_filter=512/2048` runs a part; NIBBLE_ISA=avx2 another table.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/random.h"
#include "core/threads.h"
#include "kernels/int8.h"
#include "kernels/target.h"
#include "quant/int8_matrix.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace nibble {
NIBBLE_TARGET_BEGIN("avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
// `rounds` times 12 dot products of 64 weights.
static void dots_vnni(size_t rounds) {
  __m512i sums[12] = {};
  const __m512i x = _mm512_set1_epi8(1);
  for (size_t i = 0; i < rounds; ++i) {
    NIBBLE_UNROLL
    for (size_t k = 0; k < 12; ++k) {
      sums[k] = _mm512_dpbusd_epi32(sums[k], x, x);
      __asm__ volatile("" : "+v"(sums[k]));  // twelve sums, not one twelve times
    }
  }
}
NIBBLE_TARGET_END
NIBBLE_TARGET_BEGIN("avx2")
// `rounds` times 12 products of 32 weights, added up in 16 bits.
static void dots_avx2(size_t rounds) {
  __m256i sums[12] = {};
  const __m256i x = _mm256_set1_epi8(1);
  for (size_t i = 0; i < rounds; ++i) {
    NIBBLE_UNROLL
    for (size_t k = 0; k < 12; ++k) {
      __m256i products = _mm256_maddubs_epi16(x, x);
      __asm__ volatile("" : "+x"(products));
      sums[k] = _mm256_add_epi16(sums[k], products);
      __asm__ volatile("" : "+x"(sums[k]));
    }
  }
}
NIBBLE_TARGET_END
}  // namespace nibble
#endif

namespace nibble {
namespace {

using benchmark::Counter;
using benchmark::State;

void count(State& state, const char* what, size_t amount) {
  state.counters[what] = Counter(static_cast<double>(amount), Counter::kIsIterationInvariantRate, Counter::kIs1000);
}

#if defined(__x86_64__)
void peak(State& state, void (*dots)(size_t), size_t bytes) {
  constexpr size_t kRounds = 10000;
  for (auto _ : state) dots(kRounds);
  count(state, "ops", kRounds * 12 * bytes * 2);
}
#endif

Int8Matrix random_weight(const QuantSpec& spec, size_t rows, size_t cols) {
  Random random(1);
  QuantizedMatrix slice;
  slice.spec = spec;
  slice.rows = 1;
  slice.cols = cols;
  for (size_t c = 0; c < cols; ++c)
    slice.codes.push_back(static_cast<uint8_t>(random.next() & ((1u << spec.bits) - 1)));
  slice.scales.assign(slice.groups(), 0.125f);
  if (!spec.symmetric) slice.zeros.assign(slice.groups(), 1);
  PackedMatrixBuilder builder(spec, rows, cols);
  for (size_t r = 0; r < rows; ++r) builder.add(r, slice);
  return Int8Matrix(builder.finish());
}

// Tokens, rows and columns are the arguments.
void product(State& state, const QuantSpec& spec) {
  const auto tokens = static_cast<size_t>(state.range(0)), rows = static_cast<size_t>(state.range(1));
  const auto cols = static_cast<size_t>(state.range(2));
  const Int8Matrix w = random_weight(spec, rows, cols);
  Random random(2);
  std::vector<float> x(tokens * cols), y(tokens * rows);
  for (float& value : x) value = static_cast<float>(random.uniform() - 0.5);
  for (auto _ : state)
    multiply(w, matrix<const float>(x.data(), tokens, cols), nullptr, matrix(y.data(), tokens, rows));
  count(state, "ops", 2 * tokens * rows * cols);
  count(state, "bytes", w.bytes());
}

void load(State& state, const QuantSpec& spec) {
  constexpr size_t kRows = 4096, kCols = 4096;
  PackedMatrixBuilder builder(spec, kRows, kCols);
  const PackedMatrix packed = builder.finish();
  for (auto _ : state) benchmark::DoNotOptimize(Int8Matrix(packed).bytes());
  count(state, "weights", kRows * kCols);
}

void register_all() {
#if defined(__x86_64__)
  if (kernels::active_int8().name == "vnni") benchmark::RegisterBenchmark("peak", peak, dots_vnni, size_t{64});
  if (kernels::active_int8().name == "avx2") benchmark::RegisterBenchmark("peak", peak, dots_avx2, size_t{32});
#endif
  const std::pair<const char*, QuantSpec> specs[] = {{"int4_g32", {.bits = 4, .group = 32}},
                                                     {"int4_g64", {.bits = 4, .group = 64}},
                                                     {"int4_g64_zeros", {.bits = 4, .group = 64, .symmetric = false}},
                                                     {"int8_row", {.bits = 8, .group = QuantSpec::kWholeRow}}};
  for (const auto& [name, spec] : specs) {
    auto* const run = benchmark::RegisterBenchmark(name, product, spec);
    for (const int tokens : {9, 16, 64, 512}) run->Args({tokens, 2048, 2048});
    run->Args({512, 576, 576})->Args({512, 1536, 576})->Args({512, 576, 1536})->Args({512, 2048, 8192});
    benchmark::RegisterBenchmark((std::string(name) + "/load").c_str(), load, spec);
  }
  // From memory: more than the caches hold, whatever the width.
  for (const int bits : {1, 2, 3, 4, 5, 6, 8}) {
    const QuantSpec spec{.bits = bits, .group = 64};
    auto* const run =
        benchmark::RegisterBenchmark(("decode_int" + std::to_string(bits) + "_g64").c_str(), product, spec);
    for (const int tokens : {1, 2, 4, 8}) run->Args({tokens, 1 << (bits > 4 ? 16 : 17), 4096});
    // From the L3 cache (the last matrix of a small model), and from the L2 cache.
    run->Args({1, 49152, 576})->Args({1, 1536, 576});
  }
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
