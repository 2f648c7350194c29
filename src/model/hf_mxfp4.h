#pragma once
#include "model/hf_quantization.h"

namespace nibble {

// Is this quantization_config of compressed-tensors in its format "mxfp4-pack-quantized"? Throws Error(kUnsupported)
// when it is and asks for quantized inputs.
bool is_packed_mxfp4(const Json& quantization);
// MODULE.weight_packed and .weight_scale stand for MODULE.weight.
StoredTensors read_packed_mxfp4(HfCheckpoint checkpoint);

}  // namespace nibble
