#pragma once
#include <memory>

#include "model/onnx_source.h"

namespace nibble {

// A graph that onnxruntime-genai's model builder made, seen as the Hugging Face model that it was made from: nodes are
// matched by name, and by what they compute as far as nibble's decoder must know it (a graph with any other operator is
// refused). config() comes from config.json beside the model, or from genai_config.json and the graph itself: sizes,
// epsilon, the rotation's base from its tables of cosines. q/k/v are rows of one fused weight; embedding and lm_head
// are two tensors, though the graph may hold them as one.
class OnnxDecoder final : public OnnxSource {
 public:
  // Throws Error(kUnsupported) naming the file and what is not known.
  explicit OnnxDecoder(const std::filesystem::path& file);

 private:
  struct Names;
  void add_tensors(const Names& names);
};

}  // namespace nibble
