#pragma once
#include <filesystem>
#include <memory>

#include "model/source.h"

namespace nibble {

// A Hugging Face folder: config.json, safetensors or pytorch_model.bin (one file or sharded), side files; or what the
// exporter `pt` writes. Checkpoints with a quantization_config (see hf_quantization.h) show their quantized modules as
// one tensor each.
std::unique_ptr<Source> open_hf_source(const std::filesystem::path& folder);

}  // namespace nibble
