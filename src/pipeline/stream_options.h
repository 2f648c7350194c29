#pragma once
#include <cstddef>

#include "quant/activation_observer.h"

namespace nibble {

// How the blocks are run on the calibration tokens.
struct StreamOptions {
  bool bf16 = false;            // arithmetic of the products with weights, and the type of activations kept
  bool true_sequential = true;  // a stage's inputs come from the quantized stages before it; otherwise from the block's
                                // float weights. Inputs of a block always come from the quantized blocks before it.
  ObserverOptions observer;     // how ranges of static inputs are chosen
  size_t activation_bytes = size_t{128} << 20;  // of a stage's inputs in memory; beyond that they go to a file
};

}  // namespace nibble
