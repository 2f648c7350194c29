#pragma once
#include <algorithm>
#include <cassert>
#include <span>
#include <utility>

#include "algo/group_scale.h"
#include "core/error.h"
#include "core/tensor.h"
#include "quant/quantized_matrix.h"

namespace nibble {

inline void refuse_mins(const QuantSpec& spec) {
  if (spec.mins)
    throw Error(ErrorKind::kUsage, cat(describe(spec), ": this algorithm makes zero points, not stored mins"));
}

// Quantizes group by group: `fit(weights, begin, codes)` gets one group's weights and its first column, writes its
// codes and returns its map.
template <class Fit>
QuantizedMatrix quantize_groups(MatrixView<const float> weight, const QuantSpec& spec, const Fit& fit) {
  assert(!spec.per_tensor);
  refuse_mins(spec);
  QuantizedMatrix q;
  q.spec = spec;
  q.rows = weight.rows;
  q.cols = weight.cols;
  const size_t groups = spec.groups(q.cols), size = spec.group_size(q.cols);
  q.codes.resize(q.rows * q.cols);
  q.scales.resize(q.rows * groups);
  if (!spec.symmetric) q.zeros.resize(q.scales.size());
  for (size_t r = 0; r < q.rows; ++r)
    for (size_t g = 0; g < groups; ++g) {
      const size_t begin = g * size, count = std::min(size, q.cols - begin);
      const GroupScale map = fit(std::span(weight.row(r) + begin, count), begin, q.codes.data() + r * q.cols + begin);
      q.scales[r * groups + g] = map.scale;
      if (!spec.symmetric) q.zeros[r * groups + g] = map.zero;
    }
  return q;
}

// Rounds everything with one map.
inline QuantizedMatrix quantize_tensor(MatrixView<const float> weight, const QuantSpec& spec, const GroupScale& map) {
  refuse_mins(spec);
  QuantizedMatrix q;
  q.spec = spec;
  q.rows = weight.rows;
  q.cols = weight.cols;
  q.codes.resize(q.rows * q.cols);
  q.scales = {map.scale};
  if (!spec.symmetric) q.zeros = {map.zero};
  for (size_t r = 0; r < q.rows; ++r)
    encode_group(spec, map, std::span(weight.row(r), q.cols), q.codes.data() + r * q.cols);
  return q;
}

}  // namespace nibble
