#pragma once
#include <filesystem>
#include <memory>

#include "model/source.h"

namespace nibble {

// Is it a .onnx file, or a folder with one and without safetensors?
bool is_onnx(const std::filesystem::path& path);
// The file: of a folder the only .onnx file, or the one that genai_config.json names. Throws Error(kUsage) when there
// are several.
std::filesystem::path onnx_file(const std::filesystem::path& path);

// A decoder as Hugging Face would lay it out (onnx_decoder.h). Throws Error(kUnsupported) saying why a graph is not one
// that we know.
std::unique_ptr<Source> open_onnx_decoder(const std::filesystem::path& path);
// Any graph: its float weights under the names of the nodes that use them first, [outputs, inputs], or [rows of the
// table, width]. There is no config().
std::unique_ptr<Source> open_onnx_graph(const std::filesystem::path& path);

}  // namespace nibble
