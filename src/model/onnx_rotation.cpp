#include "model/onnx_rotation.h"

#include <cmath>

namespace nibble {

std::optional<double> rotary_base(std::span<const double> frequencies) {
  if (frequencies.size() < 2) return std::nullopt;
  const auto half = static_cast<double>(frequencies.size());
  const double raw = std::pow(frequencies.back(), -half / (half - 1));
  const double theta = std::abs(raw - std::round(raw)) < 1e-4 * raw ? std::round(raw) : raw;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double expected = std::pow(theta, -static_cast<double>(i) / half);
    if (!(std::abs(frequencies[i] - expected) < 1e-3 * expected)) return std::nullopt;
  }
  return theta;
}

}  // namespace nibble
