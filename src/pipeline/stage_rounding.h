#pragma once
#include <map>
#include <string>
#include <vector>

#include "pipeline/finished_block.h"
#include "pipeline/folds.h"
#include "pipeline/plan.h"

namespace nibble {

// Quantizes the linears of one stage whose plan says so: in parallel over slices of their rows, read where they are
// needed. Adds the results and measures to `block`. `stats` are those of the stage's inputs as the folds left them; the
// Gram matrix is used up.
void round_stage(const BlockStage& stage, const QuantizePlan& plan, const Folds& folds, InputStats& stats,
                 FinishedBlock& block);

// Do the plan's algorithms want the Gram matrix of this stage's inputs?
bool wants_gram(const BlockStage& stage, const QuantizePlan& plan);

}  // namespace nibble
