#include "core/tensor.h"

#include "core/checked.h"

namespace nibble {

size_t element_count(const Shape& shape) {
  size_t count = 1;
  for (size_t extent : shape) count = checked_mul(count, extent, "element count");
  return count;
}

}  // namespace nibble
