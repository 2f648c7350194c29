#include <algorithm>
#include <cmath>

#include "algo/algorithm.h"
#include "algo/each_group.h"

namespace nibble {
namespace {

constexpr AlgorithmOption kOptions[] = {
    {"clip", 1.0, 0.1, 1.0, "multiplies each group's range; below 1, outliers saturate and the rest gets finer steps"},
    {"onnx", 0.0, 0.0, 1.0,
     "1: integer codes and zero points exactly as ONNX Runtime's quantizer rounds them: multiplied with the scale's "
     "reciprocal, halves away from zero, after the zero point was added"},
};

// The rule of MLAS (BlockedQuantizer of ONNX Runtime's q4_dq.cpp), for integer grids.
void encode_as_onnx_runtime(const QuantSpec& spec, std::span<const float> group, GroupScale& map, uint8_t* codes) {
  const float top = static_cast<float>((1 << spec.bits) - 1);
  if (!spec.symmetric) {
    float lo = 0;
    for (const float w : group) lo = std::min(lo, w);
    map.zero = static_cast<uint8_t>(std::clamp(std::round(0.0f - lo / map.scale), 0.0f, top));
  }
  const auto zero = static_cast<float>(spec.symmetric ? spec.symmetric_zero() : map.zero);
  const float reciprocal = 1.0f / map.scale;
  for (size_t i = 0; i < group.size(); ++i)
    codes[i] = static_cast<uint8_t>(std::clamp(std::round(group[i] * reciprocal + zero), 0.0f, top));
}

// Round to nearest: each group's scale comes from its smallest and largest weight alone (see fit_range).
class Rtn final : public Algorithm {
 public:
  Rtn(float clip, bool onnx) : clip_(clip), onnx_(onnx) {}

  QuantizedMatrix quantize(const Rounding& rounding) const override {
    const QuantSpec& spec = rounding.spec;
    if (spec.per_tensor)
      return quantize_tensor(rounding.weight, spec,
                             fit_range(spec, rounding.tensor_range.first, rounding.tensor_range.second, clip_));
    return quantize_groups(rounding.weight, spec, [&](std::span<const float> group, size_t, uint8_t* codes) {
      GroupScale map = fit_group(spec, group, clip_);
      if (onnx_ && spec.grid == Grid::kInt && spec.bits > 1)
        encode_as_onnx_runtime(spec, group, map, codes);
      else
        encode_group(spec, map, group, codes);
      return map;
    });
  }

 private:
  float clip_;
  bool onnx_;
};

}  // namespace

extern const AlgorithmEntry rtn_algorithm;
const AlgorithmEntry rtn_algorithm = {
    .name = "rtn",
    .summary = "round to nearest; the fastest",
    .options = kOptions,
    .make = [](const AlgorithmSettings& settings) -> std::unique_ptr<Algorithm> {
      return std::make_unique<Rtn>(static_cast<float>(settings.find("clip")->second),
                                   settings.find("onnx")->second != 0);
    },
};

}  // namespace nibble
