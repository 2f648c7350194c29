#pragma once
#include <cstddef>
#include <vector>

#include "core/tensor.h"
#include "quant/input_stats.h"

namespace nibble {

// Sums up InputStats while a model runs. The Gram matrix is summed over chunks of kChunk tokens in float and over the
// chunks in double, in the order in which they come: the same tokens in the same calls give the same bits, whatever the
// thread count.
class InputCollector {
 public:
  static constexpr size_t kChunk = 512;

  // `gram`: collect H too, half of cols^2 doubles. `bf16`: on CPUs that multiply bf16, its products are those of inputs
  // rounded to it, several times faster; elsewhere they stay float.
  InputCollector(size_t cols, bool gram, bool bf16);

  // x: [tokens, cols]; parallel. Throws Error(kCorrupt) for NaN and infinity.
  void add(MatrixView<const float> x);
  // The means. Nothing can be added afterwards.
  InputStats finish();

 private:
  void add_chunk(MatrixView<const float> x);

  InputStats sums_;
  std::vector<double> square_, abs_;  // [cols], sums
  bool bf16_;
};

}  // namespace nibble
