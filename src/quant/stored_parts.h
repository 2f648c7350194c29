#pragma once
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace nibble {

// The file tensors of one quantized module, MODULE + SUFFIX, each refused unless it is as expected. Errors are kCorrupt
// and begin with the tensor's full name.
struct StoredParts {
  std::string_view module;
  const std::function<const TensorView*(std::string_view suffix)>& find;

  const TensorView& get(std::string_view suffix) const;  // throws when it is missing
  // With as many bytes as its shape says.
  const TensorView& get(std::string_view suffix, DType dtype, const Shape& shape) const;
  // F32, F16 or BF16 as floats, all finite.
  std::vector<float> floats(std::string_view suffix) const;
  [[noreturn]] void corrupt(std::string_view suffix, const std::string& message) const;
};

}  // namespace nibble
