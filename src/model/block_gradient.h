#pragma once
#include <memory>

#include "model/config.h"
#include "model/decoder.h"
#include "quant/block.h"

namespace nibble {

// The gradient of a decoder block whose stages are {query, key, value}, {attention output}, {gate, up}, {down}. All
// sums in float, in orders that do not depend on the thread count; attention is computed row by row, so that no memory
// grows with the square of the tokens. window: see AttentionShape. `config` and `layer` must outlive it.
std::unique_ptr<BlockGradient> make_block_gradient(const ModelConfig& config, const DecoderLayer& layer, size_t window);

}  // namespace nibble
