// What the calibration of an ONNX graph takes in memory.
#include <algorithm>

#include "core/checked.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "formats/npz.h"
#include "pipeline/onnx_feeds.h"
#include "pipeline/onnx_plan.h"
#include "quant/input_collector.h"
#include "quant/stats_tree.h"

namespace nibble {
namespace {

struct Tokens {
  size_t all, of_a_run;  // at most
};

// Arrays have 8 bytes for each token and each input of the graph; their first dimension counts runs, or is 1.
Tokens tokens_at_most(const QuantizePlan& plan, size_t inputs) {
  const CalibrationChoice& choice = *plan.calibration;
  const Tokens asked{choice.samples * choice.seqlen, choice.seqlen};
  if (!names_feeds(choice.from)) return asked;
  std::vector<std::filesystem::path> files{choice.from};
  std::error_code failure;
  if (std::filesystem::is_directory(choice.from, failure)) {
    files.clear();
    for (const auto& entry : std::filesystem::directory_iterator(choice.from, failure)) files.push_back(entry.path());
  }
  size_t bytes = 0, longest = 0;
  for (const std::filesystem::path& path : files) {
    try {
      const auto file = MappedFile::open(path);
      bytes += file->bytes().size();
      for (const auto& [name, array] : parse_npz(file->bytes()))
        if (!array.shape.empty() && array.shape[0] > 0)
          longest = std::max(longest, element_count(array.shape) / array.shape[0]);
    } catch (const Error&) {  // whoever loads it says what is wrong
      return asked;
    }
  }
  return {std::min(asked.all, bytes / (8 * std::max<size_t>(inputs, 1))), std::min(asked.of_a_run, longest)};
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
    gram |= chain.input_use() == InputUse::kFactor || !chain.trainers().empty() ||
            std::any_of(chain.equalizers().begin(), chain.equalizers().end(),
                        [](const auto& equalizer) { return equalizer->needs_factor(); });
    if (planned.role == TensorRole::kLmHead) continue;  // it is the last product, and never runs
    largest = std::max(largest, planned.source->rows() * planned.source->cols() * sizeof(float));
    rows = std::max(rows, planned.source->rows());
  }
  const auto [tokens, run] = tokens_at_most(plan, graph_inputs);
  if (tokens == 0) return 0;
  constexpr size_t kProducts = 3;  // of a step; q, k and v
  const size_t step = 2 * kProducts * largest;
  const size_t waiting = std::min(tokens * widest * sizeof(float) * 3 / 2, plan.stream.activation_bytes);
  const size_t document = run * sizeof(float) * (6 * widest + 3 * rows);
  const size_t chunks = ceil_div(tokens, InputCollector::kChunk) + plan.calibration->samples;
  const size_t matrices = waiting_matrices(ceil_div(chunks, InputCollector::kLeafChunks));
  const size_t grams = gram ? (4 + 2 * matrices) * widest * (widest + 1) : 0;
  return kRuntime + scales + step + waiting + document + grams;
}

}  // namespace nibble
