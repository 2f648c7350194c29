#pragma once
#include <string>

#include "core/tensor.h"

namespace nibble {

// One tensor of a checkpoint file, dense and row-major.
struct NamedTensor {
  std::string name;
  TensorView view;
};

}  // namespace nibble
