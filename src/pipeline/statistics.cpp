#include "pipeline/statistics.h"

#include <algorithm>

#include "core/files.h"
#include "core/interrupt.h"
#include "model/block_sequence.h"
#include "model/config.h"
#include "quant/input_collector.h"
#include "quant/token_store.h"

namespace nibble {
namespace {

std::string gguf_name(const Architecture& architecture, const std::string& hf_name) {
  const auto place = find_hf_tensor(architecture, hf_name);
  return place ? tensor_name(place->rule->gguf, place->layer, place->bias) : hf_name;
}

}  // namespace

Imatrix collect_statistics(const Source& source, const CalibrationData& data, bool bf16, Progress& progress) {
  const ModelConfig config = parse_config(source.config());
  const auto blocks = open_blocks(source, bf16);
  const TemporaryFolder work;
  TokenStore stream(data.tokens(), blocks->hidden_size(), DType::kF32, work.path());
  std::vector<float> hidden, x, next;
  const auto view = [](std::vector<float>& buffer, size_t rows, size_t cols) {
    if (buffer.size() < rows * cols) buffer.resize(rows * cols);
    return matrix(buffer.data(), rows, cols);
  };
  size_t begin = 0;
  for (const auto& document : data.documents) {
    const MatrixView<float> rows = view(hidden, document.size(), stream.cols());
    blocks->embed(document, rows);
    stream.write(begin, rows);
    begin += document.size();
  }
  Imatrix imatrix;
  imatrix.datasets = {data.source};
  imatrix.chunks = static_cast<uint32_t>(data.documents.size());
  for (const auto& document : data.documents)
    imatrix.chunk_size = std::max(imatrix.chunk_size, static_cast<uint32_t>(document.size()));
  for (size_t b = 0; b < blocks->blocks(); ++b) {
    const auto block = blocks->load(b);
    const std::vector<BlockStage>& stages = block->stages();
    std::vector<InputCollector> collectors;
    collectors.reserve(stages.size());
    for (const BlockStage& stage : stages) collectors.emplace_back(stage.cols, /*gram=*/false, bf16);
    begin = 0;
    for (size_t d = 0; d < data.documents.size(); ++d) {
      check_interrupted();
      const size_t rows = data.documents[d].size();
      progress.update(b * data.documents.size() + d, blocks->blocks() * data.documents.size(),
                      cat("block ", b + 1, "/", blocks->blocks()));
      const MatrixView<float> residual = view(hidden, rows, stream.cols());
      stream.read(begin, residual);
      block->begin(residual, view(x, rows, stages.front().cols));
      const bool last_block = b + 1 == blocks->blocks();
      for (size_t s = 0; s < stages.size(); ++s) {
        const MatrixView<float> input = view(x, rows, stages[s].cols);
        collectors[s].add(input);
        if (last_block && s + 1 == stages.size()) break;  // nothing looks at what it makes
        block->advance(s, input, residual, view(next, rows, s + 1 < stages.size() ? stages[s + 1].cols : 0));
        std::swap(x, next);
      }
      stream.write(begin, residual);
      begin += rows;
    }
    for (size_t s = 0; s < stages.size(); ++s) {
      const InputStats stats = collectors[s].finish();
      Imatrix::Entry entry{stats.mean_square, static_cast<double>(stats.tokens)};
      for (float& value : entry.sums) value *= static_cast<float>(stats.tokens);
      for (const std::string& linear : stages[s].linears)
        imatrix.entries.emplace(gguf_name(*config.architecture, linear), entry);
    }
  }
  return imatrix;
}

std::map<std::string, InputFactor, std::less<>> importance_of(const Imatrix& imatrix, const Source& source) {
  const ModelConfig config = parse_config(source.config());
  std::map<std::string, InputFactor, std::less<>> importance;
  for (const auto& tensor : source.tensors()) {
    const auto entry = imatrix.entries.find(gguf_name(*config.architecture, tensor->name()));
    if (entry == imatrix.entries.end() || entry->second.tokens <= 0) continue;
    const Imatrix::Entry& sums = entry->second;
    if (sums.sums.size() != tensor->cols())
      throw Error(ErrorKind::kUsage,
                  cat("the statistics of ", entry->first, " have ", sums.sums.size(), " columns, but ", tensor->name(),
                      " has ", tensor->cols(), ": they are of another model"));
    InputFactor& factor = importance[tensor->name()];
    factor.cols = tensor->cols();
    for (const float sum : sums.sums) factor.importance.push_back(static_cast<float>(double{sum} / sums.tokens));
  }
  if (importance.empty())
    throw Error(ErrorKind::kUsage,
                "none of its entries is of a tensor of this model: the statistics are of another one");
  return importance;
}

}  // namespace nibble
