#include "pipeline/stage_runner.h"

#include <algorithm>

namespace nibble {

DocumentLayout::DocumentLayout(const std::vector<std::vector<TokenId>>& documents) {
  for (const auto& document : documents) {
    begins.push_back(tokens);
    tokens += document.size();
    longest = std::max(longest, document.size());
  }
  begins.push_back(tokens);
}

MatrixView<float> StageRunner::view(std::vector<float>& buffer, size_t d, size_t cols) const {
  if (buffer.size() < layout_.longest * cols) buffer.resize(layout_.longest * cols);
  return matrix(buffer.data(), layout_.size(d), cols);
}

MatrixView<const float> StageRunner::run(size_t s, size_t d) {
  const std::vector<BlockStage>& stages = block_.stages();
  const size_t begin = layout_.begins[d];
  const bool adds = s > 0 && stages[s - 1].residual;
  const MatrixView<float> hidden = view(hidden_, d, in_.cols()),
                          next = view(next_, d, s < stages.size() ? stages[s].cols : 0);
  if (s == 0) {
    in_.read(begin, hidden);
    block_.begin(hidden, next);
  } else {
    if (adds) {  // to the stream as the last stage that did so left it
      const auto before = stages.begin() + static_cast<ptrdiff_t>(s) - 1;
      const bool changed = std::any_of(stages.begin(), before, [](const BlockStage& stage) { return stage.residual; });
      (changed ? out_ : in_).read(begin, hidden);
    }
    const MatrixView<float> x = view(x_, d, stages[s - 1].cols);
    inputs_.read(begin, x);
    block_.advance(s - 1, x, hidden, next);
  }
  if (adds) out_.write(begin, hidden);
  if (next.cols != 0) inputs_.write(begin, next);
  return matrix<const float>(next.data, next.rows, next.cols);
}

}  // namespace nibble
