#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "quant/weight_matrix.h"

namespace nibble {

// What makes the input of a stage, where a factor for each input column can be folded into it without changing the
// function: a norm's weight, or the output rows of a linear (with its bias).
struct FoldTarget {
  std::string tensor;              // "model.layers.3.input_layernorm.weight", "model.layers.3.mlp.up_proj.weight"
  std::string bias;                // of a linear that has one: its tensor, scaled too
  bool linear = false;             // rows of a linear; otherwise elements of a norm
  std::vector<uint32_t> producer;  // [cols]: the element or row of `tensor` that makes the column. Grouped-query
                                   // attention reads one row of v_proj several times: such columns share their factor.
  bool empty() const { return tensor.empty(); }
};

// Linears of a block that read the same input.
struct BlockStage {
  std::vector<std::string> linears;  // tensor names, with ".weight"
  size_t cols = 0;
  FoldTarget fold;        // empty: nothing can take a factor
  bool residual = false;  // advance() adds to the residual stream
};

// The output of a block as a function of its linears' weights, which come from outside, all in float, and its gradient;
// biases and norms are the block's own. One document at a time, from position 0 on.
class BlockGradient {
 public:
  using Weights = std::vector<std::vector<MatrixView<const float>>>;  // [stages][linears], each [rows, cols]
  // Of a loss L: dL/dW of one linear, [rows, cols], to be used before it returns.
  using Sink = std::function<void(size_t stage, size_t linear, MatrixView<const float> gradient)>;

  virtual ~BlockGradient() = default;
  // hidden, out: [tokens, hidden], the residual stream before and after the block. Keeps what backward() needs, but not
  // the weights.
  virtual void run(const Weights& weights, MatrixView<const float> hidden, MatrixView<float> out) = 0;
  // d_out: dL/dout of the document that was run last, with the same weights. Calls `sink` once for each linear.
  virtual void backward(const Weights& weights, MatrixView<const float> d_out, const Sink& sink) = 0;
};

// One decoder block taken apart where quantization looks into it. Documents run one at a time, stage by stage: the
// inputs of a stage can be seen, its linears replaced, and only then is it run.
class Block {
 public:
  virtual ~Block() = default;
  virtual const std::vector<BlockStage>& stages() const = 0;
  // The input of stage 0. hidden: [tokens, hidden], x: [tokens, stages()[0].cols].
  virtual void begin(MatrixView<const float> hidden, MatrixView<float> x) = 0;
  // Runs the linears of a stage on its input and all that follows up to the input of the next one, which goes to `next`
  // (of the last stage: not touched). What the stage adds to the residual stream is added to `hidden`.
  virtual void advance(size_t stage, MatrixView<const float> x, MatrixView<float> hidden, MatrixView<float> next) = 0;
  // From now on `sink` gets what attention keeps of each document that runs, as it enters the cache: keys with their
  // norm and rotation (RoPE), and values, both [tokens, kv_heads * head_dim]. Blocks without attention have nothing.
  using CacheSink = std::function<void(MatrixView<const float> keys, MatrixView<const float> values)>;
  virtual void watch_cache(CacheSink) {}
  // From now on this weight is used for a linear; its bias stays.
  virtual void replace(size_t stage, size_t linear, WeightMatrix weight) = 0;
  // A norm's weight or a linear's bias, by tensor name, to read and to change.
  virtual std::span<float> vector(const std::string& tensor) = 0;
  // Uses the block's vectors as they are when it runs; must not outlive the block. Null: the block does
  // not end in a residual stream (the head).
  virtual std::unique_ptr<BlockGradient> gradient() = 0;
  // The mapped float weights behind the block leave the resident set; they are read again where they are used.
  virtual void release() const noexcept = 0;
};

// A model whose blocks are loaded one at a time.
class BlockSequence {
 public:
  virtual ~BlockSequence() = default;
  virtual size_t hidden_size() const = 0;
  virtual size_t blocks() const = 0;
  virtual void embed(std::span<const int32_t> tokens, MatrixView<float> hidden) = 0;
  virtual std::unique_ptr<Block> load(size_t block) = 0;
};

}  // namespace nibble
