#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace nibble {
namespace {

void scale_llama3(const RopeConfig& rope, std::vector<double>& frequencies) {
  const auto context = static_cast<double>(rope.original_context);
  for (double& frequency : frequencies) {
    const double turns = context * frequency / (2 * std::numbers::pi);  // within the original context
    // From all of the frequency at `high` turns and more to 1 / factor of it at `low` turns and fewer.
    const double kept =
        std::clamp((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0, 1.0);
    frequency = (1 - kept) * frequency / rope.factor + kept * frequency;
  }
}

void scale_yarn(const RopeConfig& rope, std::vector<double>& frequencies) {
  const auto dims = static_cast<double>(rope.dims);
  const auto context = static_cast<double>(rope.original_context);
  // The (fractional) pair that turns `turns` times within the original context.
  const auto pair_with = [&](double turns) {
    return dims * std::log(context / (turns * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
  };
  double low = pair_with(rope.beta_fast), high = pair_with(rope.beta_slow);
  if (rope.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, dims - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double interpolated = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / rope.factor * interpolated + frequencies[i] * (1 - interpolated);
  }
}

}  // namespace

std::vector<double> rope_frequencies(const RopeConfig& rope) {
  std::vector<double> frequencies(rope.dims / 2);
  for (size_t i = 0; i < frequencies.size(); ++i)
    frequencies[i] = std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(rope.dims));
  switch (rope.kind) {
    case RopeConfig::Kind::kDefault:
      break;
    case RopeConfig::Kind::kLinear:
      for (double& frequency : frequencies) frequency /= rope.factor;
      break;
    case RopeConfig::Kind::kLlama3:
      scale_llama3(rope, frequencies);
      break;
    case RopeConfig::Kind::kYarn:
      scale_yarn(rope, frequencies);
      break;
  }
  return frequencies;
}

void rope_table(std::span<const float> frequencies, float magnitude, size_t first, size_t positions, float* cosines,
                float* sines) {
  for (size_t p = 0; p < positions; ++p)
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const float angle = static_cast<float>(first + p) * frequencies[i];
      *cosines++ = static_cast<float>(std::cos(static_cast<double>(angle))) * magnitude;
      *sines++ = static_cast<float>(std::sin(static_cast<double>(angle))) * magnitude;
    }
}

}  // namespace nibble
