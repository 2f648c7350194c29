#pragma once
#include <vector>

#include "core/progress.h"
#include "model/source.h"
#include "model/tokenizer.h"
#include "pipeline/calibration_choice.h"

namespace nibble {

// choice.samples documents of exactly choice.seqlen tokens, sampled from the model in `source` itself at temperature 1,
// each from a random first token. Seeded.
std::vector<std::vector<TokenId>> sample_documents(const Source& source, const CalibrationChoice& choice,
                                                   Progress& progress);

}  // namespace nibble
