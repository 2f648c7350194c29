#pragma once
#include <cstddef>
#include <memory>
#include <vector>

#include "core/progress.h"
#include "model/model.h"

namespace nibble {

struct BenchOptions {
  size_t prompt = 512;               // tokens read at once; 0: none
  size_t tokens = 128;               // generated one by one from an empty context; 0: none
  std::vector<size_t> threads = {};  // thread counts, each a row
  size_t repetitions = 3;
  CacheType cache = CacheType::kF16;
};

// Tokens per second: mean over the repetitions and the sample's standard deviation (0 for a single one).
struct Rate {
  double mean = 0, deviation = 0;
};
Rate rate(const std::vector<double>& samples);

struct BenchRow {
  size_t threads = 0;
  Rate prefill, decode;
  double decode_gb_s = 0;  // bytes of weights that a token reads x mean decode rate, / 1e9
};

// Times the model on seeded random tokens; decoding takes the likeliest token each time, as greedy generation does. The
// first repetition of each thread count is preceded by a short one that is not counted. The repetitions of the thread
// counts take turns, so that a slow spell of the machine meets them all. Sets the thread count. Throws Error(kUsage)
// when the model's context is too short and Error(kInterrupted).
std::vector<BenchRow> bench(Model& model, const BenchOptions& options, Progress& progress);

}  // namespace nibble
