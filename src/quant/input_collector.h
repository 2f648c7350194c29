#pragma once
#include <cstddef>
#include <vector>

#include "core/tensor.h"
#include "quant/stats_tree.h"

namespace nibble {

// Sums up InputStats while a model runs. Products are summed over chunks of at most kChunk tokens in float, over
// kLeafChunks chunks in double, in the order in which they come, and from there in a StatsTree: the same tokens in the
// same calls give the same bits, whatever the thread count, and however leaves are divided among collectors.
class InputCollector {
 public:
  static constexpr size_t kChunk = 512;      // tokens; a call starts a new one
  static constexpr size_t kLeafChunks = 32;  // 16384 tokens in documents of 512

  // `gram`: collect H too, half of cols^2 doubles. `bf16`: on CPUs that multiply bf16 fast, its products are those of
  // inputs rounded to it, several times faster; elsewhere they stay float. first_leaf: where in the tree it begins.
  InputCollector(size_t cols, bool gram, bool bf16, size_t first_leaf = 0);

  // x: [tokens, cols]; parallel. Throws Error(kCorrupt) for NaN and infinity.
  void add(MatrixView<const float> x);
  // With InputStats::cross: wanted, [tokens, cols], are the inputs in the float model. With `gram` only; one kind of
  // call for all tokens.
  void add(MatrixView<const float> x, MatrixView<const float> wanted);
  // The means. Nothing can be added afterwards.
  InputStats finish();
  // Instead of finish(): what is to be merged with others'. The last leaf may have fewer chunks.
  StatsTree take();

 private:
  void add_chunk(MatrixView<const float> x, const MatrixView<const float>* wanted);
  void close_leaf();

  StatsSums sums_;  // of the present leaf
  StatsTree leaves_;
  size_t cols_, leaf_, chunks_ = 0;
  bool bf16_;
};

}  // namespace nibble
