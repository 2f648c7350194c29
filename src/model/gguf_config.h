#pragma once
#include "core/json.h"
#include "formats/gguf.h"
#include "model/architecture.h"

namespace nibble {

// The config.json that the checkpoint behind a GGUF file would have: sizes, rope parameters (those of Llama 3 recovered
// from the tensor rope_freqs.weight), special token ids, biases and tied embeddings as its tensors show them, dtype
// "float32". Throws Error(kCorrupt) naming the metadata key, Error(kUnsupported) for what transformers has no key for.
Json config_from_gguf(const Gguf& gguf, const Architecture& architecture);

// Tensors that are part of a GGUF's configuration and not of the model.
bool is_gguf_config_tensor(std::string_view name);

}  // namespace nibble
