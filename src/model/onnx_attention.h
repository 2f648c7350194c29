#pragma once
#include "model/onnx_operators.h"

namespace nibble {

// Attention-23 with one output, without earlier keys and values: softmax(scale Q K^T + mask) V. Throws
// Error(kUnsupported) for earlier keys and capped scores, otherwise as compute_onnx().
OnnxArray onnx_attention(const OnnxCall& call);
// RotaryEmbedding-23: pairs of elements of each head turn by angles whose cosines and sines are given.
OnnxArray onnx_rotary_embedding(const OnnxCall& call);

}  // namespace nibble
