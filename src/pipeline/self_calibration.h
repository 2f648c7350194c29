#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "core/progress.h"
#include "model/model.h"
#include "pipeline/calibration_choice.h"

namespace nibble {

struct SampleOptions {
  size_t count = 1, length = 512;  // texts, and tokens of each
  uint64_t seed = 0;
  std::optional<TokenId> first = {};  // of every text; nothing: each has a random one
  CacheType cache = CacheType::kQ8;
};

// Texts that the model writes itself: temperature 1, from the whole distribution. An EOS is a token like others, and
// what the model writes after it a new text. Many texts grow side by side, so that each pass over the weights serves
// all of them: as many as fit into 320 MiB of keys, values and logits. Seeded; a text does not depend on the number of
// threads. Throws Error(kCorrupt) for logits that are not numbers.
std::vector<std::vector<TokenId>> sample_texts(Model& model, const SampleOptions& options, Progress& progress);

// The documents of `--calib self`: sampled from the model in `source`, which is loaded for it and computes in int8 or
// bf16 where weights and CPU allow. Mapped weights are released after each use: they count as resident a layer at a
// time.
std::vector<std::vector<TokenId>> sample_documents(const Source& source, const CalibrationChoice& choice,
                                                   Progress& progress);

}  // namespace nibble
