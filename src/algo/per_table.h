#pragma once
#include <array>
#include <cstddef>
#include <iterator>

#include "quant/spec.h"

namespace nibble {

// Something for each grid of 16 levels, made once.
template <class T>
class PerTable16 {
 public:
  explicit PerTable16(T (*make)(Grid grid)) {
    for (size_t i = 0; i < made_.size(); ++i) made_[i] = make(kTables16[i]);
  }
  // For the others: whatever the last one has.
  const T& operator[](Grid grid) const {
    size_t i = 0;
    while (i + 1 < made_.size() && kTables16[i] != grid) ++i;
    return made_[i];
  }

 private:
  std::array<T, std::size(kTables16)> made_;
};

}  // namespace nibble
