#include "algo/algorithm.h"
#include "algo/each_group.h"

namespace nibble {
namespace {

constexpr AlgorithmOption kOptions[] = {
    {"clip", 1.0, 0.1, 1.0, "multiplies each group's range; below 1, outliers saturate and the rest gets finer steps"},
};

// Round to nearest: each group's scale comes from its smallest and largest weight alone (see fit_range).
class Rtn final : public Algorithm {
 public:
  explicit Rtn(float clip) : clip_(clip) {}

  QuantizedMatrix quantize(const Rounding& rounding) const override {
    const QuantSpec& spec = rounding.spec;
    if (spec.per_tensor)
      return quantize_tensor(rounding.weight, spec,
                             fit_range(spec, rounding.tensor_range.first, rounding.tensor_range.second, clip_));
    return quantize_groups(rounding.weight, spec, [&](std::span<const float> group, size_t, uint8_t* codes) {
      const GroupScale map = fit_group(spec, group, clip_);
      encode_group(spec, map, group, codes);
      return map;
    });
  }

 private:
  float clip_;
};

}  // namespace

extern const AlgorithmEntry rtn_algorithm;
const AlgorithmEntry rtn_algorithm = {
    .name = "rtn",
    .summary = "round to nearest; the fastest",
    .options = kOptions,
    .make = [](const AlgorithmSettings& settings) -> std::unique_ptr<Algorithm> {
      return std::make_unique<Rtn>(static_cast<float>(settings.find("clip")->second));
    },
};

}  // namespace nibble
