#pragma once
#include <string>

#include "core/tensor.h"

namespace nibble {

// One tensor of a checkpoint file, dense and row-major.
struct NamedTensor {
  std::string name;
  TensorView view;
};

// One tensor of a file to be written.
struct TensorSlot {
  std::string name;
  DType dtype;
  Shape shape;
};

}  // namespace nibble
