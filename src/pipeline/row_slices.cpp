#include "pipeline/row_slices.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/interrupt.h"
#include "core/threads.h"
#include "export/float_bytes.h"
#include "kernels/kernels.h"

namespace nibble {

void append_slices(size_t tensor, const StoredTensor& source, std::vector<RowSlice>& slices) {
  const size_t step = slice_rows(source.cols());
  for (size_t begin = 0; begin < source.rows(); begin += step)
    slices.push_back({tensor, begin, std::min(source.rows(), begin + step)});
}

std::vector<float> read_finite(const StoredTensor& tensor, size_t begin, size_t end) {
  std::vector<float> values((end - begin) * tensor.cols());
  tensor.read_rows(begin, end, values.data());
  const size_t at = find_not_finite(values);
  if (at == values.size()) return values;
  throw Error(ErrorKind::kCorrupt,
              cat("tensor ", tensor.name(), " holds ", std::isnan(values[at]) ? "NaN" : "an infinity", " at row ",
                  begin + at / tensor.cols(), ", column ", at % tensor.cols(),
                  "; the checkpoint is damaged: download it again, or repair that value"));
}

std::optional<size_t> unstorable_scale(const QuantizedMatrix& quantized) {
  constexpr float kLargestHalf = 65504;
  if (quantized.spec.scale_dtype != DType::kF16) return std::nullopt;
  const auto at = std::find_if(quantized.scales.begin(), quantized.scales.end(),
                               [](float scale) { return std::abs(scale) >= kLargestHalf; });
  if (at == quantized.scales.end()) return std::nullopt;
  return static_cast<size_t>(at - quantized.scales.begin()) / std::max<size_t>(1, quantized.groups());
}

std::pair<float, float> tensor_range(const StoredTensor& tensor) {
  std::vector<RowSlice> slices;
  append_slices(0, tensor, slices);
  std::vector<std::pair<float, float>> ranges(slices.size());
  parallel_for(slices.size(), 1, [&](size_t first, size_t last) {
    for (size_t i = first; i < last; ++i) {
      check_interrupted();
      const std::vector<float> values = read_finite(tensor, slices[i].begin, slices[i].end);
      kernels::active().min_max(values.data(), values.size(), &ranges[i].first, &ranges[i].second);
      tensor.release(slices[i].begin, slices[i].end);
    }
  });
  std::pair<float, float> range{std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()};
  for (const auto& [lo, hi] : ranges) range = {std::min(range.first, lo), std::max(range.second, hi)};
  return range;
}

}  // namespace nibble
