// Bytes of text per second, on one thread. NIBBLE_BENCH_TOKENIZER names a model, NIBBLE_BENCH_TEXT a text file; without
// them the small vocabulary and the novel of tests/data are used.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <string>

#include "core/files.h"
#include "model/load_tokenizer.h"

namespace nibble {
namespace {

std::string variable(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value ? value : otherwise;
}

std::string model_path() { return variable("NIBBLE_BENCH_TOKENIZER", NIBBLE_TEST_DATA "/tokenizers/byte-level.json"); }

const std::string& text() {
  static const std::string kText = read_text_file(variable("NIBBLE_BENCH_TEXT", NIBBLE_TEST_DATA "/alice.txt"));
  return kText;
}

void count_bytes(benchmark::State& state, const std::string& input) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(input.size()));
}

void load(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(load_tokenizer(model_path()));
}

void encode_warm(benchmark::State& state) {
  const auto tokenizer = load_tokenizer(model_path());
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->encode(text(), false));
  count_bytes(state, text());
}

// Every word is new to the cache, as in a program that tokenizes one text.
void encode_cold(benchmark::State& state) {
  for (auto _ : state) {
    state.PauseTiming();
    const auto tokenizer = load_tokenizer(model_path());
    state.ResumeTiming();
    benchmark::DoNotOptimize(tokenizer->encode(text(), false));
  }
  count_bytes(state, text());
}

// A megabyte of one unit: words without end.
void encode_adversarial(benchmark::State& state, const std::string& unit) {
  const auto tokenizer = load_tokenizer(model_path());
  std::string input;
  while (input.size() < 1'000'000) input += unit;
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->encode(input, false));
  count_bytes(state, input);
}

void decode(benchmark::State& state) {
  const auto tokenizer = load_tokenizer(model_path());
  const auto ids = tokenizer->encode(text(), false);
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer->decode(ids, false));
  count_bytes(state, text());
}

BENCHMARK(load)->Unit(benchmark::kMillisecond);
BENCHMARK(encode_warm)->Unit(benchmark::kMillisecond);
BENCHMARK(encode_cold)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode_adversarial, a, "a")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode_adversarial, space, " ")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode_adversarial, ab, "ab")->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(encode_adversarial, emoji, "\xf0\x9f\x9a\x80")->Unit(benchmark::kMillisecond);
BENCHMARK(decode)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace nibble

BENCHMARK_MAIN();
