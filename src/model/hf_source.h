#pragma once
#include <filesystem>
#include <memory>

#include "model/source.h"

namespace nibble {

// A Hugging Face folder: config.json, safetensors (one file or sharded), side files. Checkpoints with a
// quantization_config of compressed-tensors, GPTQ, AWQ, AutoRound or of nibble's own method show their quantized
// modules as one tensor each.
std::unique_ptr<Source> open_hf_source(const std::filesystem::path& folder);

}  // namespace nibble
