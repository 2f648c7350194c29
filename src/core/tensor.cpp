#include "core/tensor.h"

#include "core/checked.h"
#include "core/error.h"

namespace nibble {

size_t element_count(const Shape& shape) {
  size_t count = 1;
  for (size_t extent : shape) count = checked_mul(count, extent, "element count");
  return count;
}

std::string describe(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += cat(i == 0 ? "" : ", ", shape[i]);
  return text + "]";
}

}  // namespace nibble
