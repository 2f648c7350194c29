#pragma once
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "pipeline/plan.h"
#include "quant/block.h"
#include "quant/input_stats.h"

namespace nibble {

// Factors that equalizers moved between the tensors of one block: the function of the block is the same.
class Folds {
 public:
  // Multiplies a slice of rows of a linear by its factors.
  void apply(const std::string& tensor, size_t first_row, MatrixView<float> rows) const;

  // [cols]: what the inputs of a linear are divided by; empty: nothing.
  std::span<const float> column_factors(const std::string& tensor) const;

  // Lets the equalizers of the plan choose factors for every stage of `block` whose linears are all quantized and whose
  // producer can take them, stage by stage, and changes the block's vectors. stats: [stages], of the float model on the
  // calibration tokens; afterwards they are those of the changed block, but for Gram matrices that were used up unless
  // `keep_grams`. Vectors that changed go to `vectors`, by tensor name, rounded to the type in which the plan stores
  // them: the factors are chosen so that this costs nothing.
  void choose(Block& block, const QuantizePlan& plan, std::vector<InputStats>& stats, bool keep_grams,
              std::map<std::string, std::vector<float>, std::less<>>& vectors);

  // The same for linears whose inputs nothing here makes: whoever makes or reads these is to multiply them by the
  // result, [cols], numbers that `dtype` holds. Empty: there is nothing to scale. Trainers look at the linears' outputs
  // alone. With `keep_gram` off, the last that wants the Gram matrix uses it up.
  std::vector<float> choose_inputs(const BlockStage& stage, const QuantizePlan& plan, InputStats& stats, DType dtype,
                                   bool keep_gram);

  // The same for the plan's trainers, which choose for all such stages of a block together. documents: the residual
  // stream before the block, at least one.
  void train(Block& block, const QuantizePlan& plan, std::span<const MatrixView<const float>> documents,
             std::vector<InputStats>& stats, std::map<std::string, std::vector<float>, std::less<>>& vectors);

 private:
  struct Factors {
    std::vector<float> rows, cols;  // empty: 1
  };
  std::vector<float> chosen(const Equalizer& equalizer, const BlockStage& stage, const QuantizePlan& plan,
                            InputStats& stats, bool keep_gram) const;
  std::vector<float> chosen(const std::function<std::vector<float>(const EqualizerInput&)>& choose, bool factored,
                            const BlockStage& stage, const QuantizePlan& plan, InputStats& stats, bool keep_gram) const;
  void scale_columns(const BlockStage& stage, const std::vector<float>& scales);
  void fold(Block& block, const QuantizePlan& plan, const BlockStage& stage, std::vector<float>& scales,
            std::map<std::string, std::vector<float>, std::less<>>& vectors);

  std::map<std::string, Factors, std::less<>> factors_;  // by tensor name of a linear
};

// The chain that all quantized linears of a stage share and that scales columns; null when there is none or some linear
// is not quantized.
const AlgorithmChain* preparing_chain(const BlockStage& stage, const QuantizePlan& plan);

// How many documents the trainers of a block's stages want to see, at most; 0: there are none.
size_t documents_to_train(const Block& block, const QuantizePlan& plan);

}  // namespace nibble
