#pragma once
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "model/source.h"
#include "quant/quantized_matrix.h"

namespace nibble {

// Rows [begin, end) of one tensor of a plan: the unit of work.
struct RowSlice {
  size_t tensor;  // index in the plan
  size_t begin, end;
};

// All rows of a tensor, cut into slices of about a megabyte of floats. The cut does not depend on the thread count.
void append_slices(size_t tensor, const StoredTensor& source, std::vector<RowSlice>& slices);

// The rows as floats. Throws Error(kCorrupt) naming tensor, row and column of the first NaN or infinity.
std::vector<float> read_finite(const StoredTensor& tensor, size_t begin, size_t end);

// Algorithms cut a scale that F16 cannot hold down to the largest value: such a group lost its large weights. The first
// row with one; nothing for other scale types.
std::optional<size_t> unstorable_scale(const QuantizedMatrix& quantized);

// {min, max} of the whole tensor, for grids with one scale. Parallel.
std::pair<float, float> tensor_range(const StoredTensor& tensor);

}  // namespace nibble
