#pragma once
#include <algorithm>
#include <cstddef>

#include "quant/packed_matrix.h"

namespace nibble {

// The runtime form of a stored weight whose codes do not lie as PackedMatrix wants them. `Weight` has spec(), rows(),
// cols() and read_codes(begin, end).
template <class Weight>
PackedMatrix pack_rows(const Weight& weight) {
  PackedMatrixBuilder builder(weight.spec(), weight.rows(), weight.cols());
  const size_t step = std::max<size_t>(1, (size_t{1} << 18) / std::max<size_t>(1, weight.cols()));
  for (size_t r = 0; r < weight.rows(); r += step)
    builder.add(r, weight.read_codes(r, std::min(weight.rows(), r + step)));
  return builder.finish();
}

}  // namespace nibble
