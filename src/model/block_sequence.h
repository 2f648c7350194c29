#pragma once
#include <memory>

#include "model/source.h"
#include "quant/block.h"

namespace nibble {

// The blocks of a model on disk, for calibration; an lm_head of its own counts as a last block of one stage. `bf16`:
// products round activations to bf16, and the weights too where they hold more. Sees one document at a time, from
// position 0 on. Weights are views of the source's mapping where dtype and layout allow it. The source must outlive it.
// Errors as Model::load.
std::unique_ptr<BlockSequence> open_blocks(const Source& source, bool bf16);

}  // namespace nibble
