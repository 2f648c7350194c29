#pragma once
#include <functional>
#include <string_view>

#include "model/onnx_arrays.h"

namespace nibble {

// One node's values.
struct OnnxCall {
  const onnx::NodeProto& node;
  const OnnxModel& model;
  std::function<const OnnxArray*(int input)> find;  // null where the input is left out
  const OnnxArray& in(int input) const;             // throws Error(kCorrupt) where it is left out
};

// What a node with one output computes, in double: the operators that exporters of decoders use. Throws
// Error(kUnsupported) for others, Error(kCorrupt) for inputs that contradict each other. Specification: ONNX's
// Operators.md; of what came after opset 22 Attention, RMSNormalization and RotaryEmbedding.
OnnxArray compute_onnx(const OnnxCall& call);

}  // namespace nibble
