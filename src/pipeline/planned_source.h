#pragma once
#include <optional>

#include "core/dtype.h"
#include "model/config.h"
#include "model/source.h"

namespace nibble {

// A source that lost or bent a tensor must not become a model that only fails when it runs: throws Error(kCorrupt)
// unless it has all of the architecture's tensors in the shapes that `config` gives them.
void check_tensors(const Source& source, const ModelConfig& config);

// The type that most of the model's floats have.
DType prevailing_dtype(const Source& source);

// What a tensor becomes when nothing quantizes it. Types that are not floats stay as they are.
DType kept_dtype(const StoredTensor& tensor, std::optional<DType> wanted);

}  // namespace nibble
