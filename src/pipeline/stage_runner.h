#pragma once
#include <vector>

#include "model/tokenizer.h"
#include "quant/block.h"
#include "quant/token_store.h"

namespace nibble {

// Calibration documents one behind the other.
struct DocumentLayout {
  explicit DocumentLayout(const std::vector<std::vector<TokenId>>& documents);

  size_t size(size_t d) const { return begins[d + 1] - begins[d]; }
  size_t tokens = 0, longest = 0;
  std::vector<size_t> begins;  // [documents + 1]
};

// Puts documents through one block, stage by stage: all of them up to the input of stage 0, then all through stage 0 to
// the input of stage 1, and so on, so that a stage's linears can be replaced in between.
class StageRunner {
 public:
  // in, out: the residual stream before and after the block. inputs: room for the inputs of any stage.
  StageRunner(Block& block, const DocumentLayout& layout, const TokenStore& in, TokenStore& out, TokenStore& inputs)
      : block_(block), layout_(layout), in_(in), out_(out), inputs_(inputs) {}

  // Document d through the stage before s (for s = 0: through what comes before it): its input of stage s, [tokens,
  // cols], valid until the next call. For s = stages(): to the end; 0 columns.
  MatrixView<const float> run(size_t s, size_t d);

 private:
  MatrixView<float> view(std::vector<float>& buffer, size_t d, size_t cols) const;

  Block& block_;
  const DocumentLayout& layout_;
  const TokenStore& in_;
  TokenStore &out_, &inputs_;
  std::vector<float> hidden_, x_, next_;  // of one document
};

}  // namespace nibble
