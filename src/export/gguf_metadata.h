#pragma once
#include "export/exporter.h"
#include "formats/gguf_writer.h"
#include "model/config.h"

namespace nibble {

// What a GGUF file says beside its tensors. Of a GGUF source everything is carried on but what is about its own tensor
// types; of others it is made from config.json and the tokenizer's files. `file_type`: general.file_type.
GgufMetadata gguf_metadata(const OutputModel& model, const ModelConfig& config, uint32_t file_type);

// What each rope frequency is divided by, [head_dim / 2], for scalings that GGUF holds as a tensor rope_freqs.weight
// (Llama 3's); else empty.
std::vector<float> gguf_rope_divisors(const ModelConfig& config);

}  // namespace nibble
