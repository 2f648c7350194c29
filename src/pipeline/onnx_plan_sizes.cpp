// What the calibration of an ONNX graph takes in memory.
#include <algorithm>

#include "core/checked.h"
#include "pipeline/onnx_feeds.h"
#include "pipeline/onnx_plan.h"
#include "quant/input_collector.h"
#include "quant/stats_tree.h"

namespace nibble {
namespace {

// At most so many tokens; arrays have 8 bytes for each of them and each input of the graph.
size_t tokens_at_most(const QuantizePlan& plan, size_t inputs) {
  const CalibrationChoice& choice = *plan.calibration;
  const size_t tokens = choice.samples * choice.seqlen;
  if (!names_feeds(choice.from)) return tokens;
  size_t bytes = 0;
  std::error_code failure;
  if (std::filesystem::is_directory(choice.from, failure)) {
    for (const auto& entry : std::filesystem::directory_iterator(choice.from, failure))
      bytes += static_cast<size_t>(entry.file_size(failure));
  } else {
    bytes = static_cast<size_t>(std::filesystem::file_size(choice.from, failure));
  }
  return failure ? tokens : std::min(tokens, bytes / (8 * std::max<size_t>(inputs, 1)));
}

}  // namespace

size_t onnx_calibration_bytes(const QuantizePlan& plan, size_t graph_inputs) {
  if (!plan.onnx_runtime) return 0;
  constexpr size_t kRuntime = size_t{80} << 20;  // of ONNX Runtime itself, and of the tokenizer that made the tokens
  size_t largest = 0, widest = 0, rows = 0, scales = 0;
  bool gram = false;
  for (const PlannedTensor& planned : plan.tensors) {
    if (!planned.calibrated) continue;
    widest = std::max(widest, planned.source->cols());
    // Codes wait in files, their scales and zero points in memory.
    scales += planned.source->rows() * planned.spec->groups(planned.source->cols()) * (sizeof(float) + 1);
    const AlgorithmChain& chain = *plan.algorithms.find(planned.algorithm)->second;
    gram |= chain.input_use() == InputUse::kFactor ||
            std::any_of(chain.equalizers().begin(), chain.equalizers().end(),
                        [](const auto& equalizer) { return equalizer->needs_factor(); });
    if (planned.role == TensorRole::kLmHead) continue;  // it is the last product, and never runs
    largest = std::max(largest, planned.source->rows() * planned.source->cols() * sizeof(float));
    rows = std::max(rows, planned.source->rows());
  }
  const size_t tokens = tokens_at_most(plan, graph_inputs);
  if (tokens == 0) return 0;
  constexpr size_t kProducts = 3;  // of a step; q, k and v
  const size_t step = 2 * kProducts * largest;
  const size_t waiting = std::min(tokens * widest * sizeof(float) * 3 / 2, plan.stream.activation_bytes);
  const size_t document = plan.calibration->seqlen * sizeof(float) * (6 * widest + 3 * rows);
  const size_t chunks = ceil_div(tokens, InputCollector::kChunk) + plan.calibration->samples;
  const size_t matrices = waiting_matrices(ceil_div(chunks, InputCollector::kLeafChunks));
  const size_t grams = gram ? (4 + 2 * matrices) * widest * (widest + 1) : 0;
  return kRuntime + scales + step + waiting + document + grams;
}

}  // namespace nibble
