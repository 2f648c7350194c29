#pragma once
#include "model/onnx_source.h"

namespace nibble {

// A decoder that torch.onnx or optimum exported, in single operators, seen as the Hugging Face model that it was made
// from: its parts are found by what they compute (onnx_structure.h), and what nibble's decoder makes of a few tokens is
// compared with what the graph makes of them before anything is believed. config() comes from config.json beside the
// model, or from the graph itself.
class OnnxExported final : public OnnxSource {
 public:
  // Throws Error(kUnsupported) naming the file and what is not known.
  explicit OnnxExported(const std::filesystem::path& file);

 private:
  void add_tensors(const struct OnnxStructure& structure);
};

}  // namespace nibble
