#pragma once
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

namespace nibble {

// Adam (Kingma & Ba 2015, arXiv 1412.6980) on a vector, with the paper's constants.
class Adam {
 public:
  explicit Adam(size_t count) : mean_(count), square_(count) {}

  // values -= rate * a step along `gradient`; both have the vector's size.
  void step(std::span<const double> gradient, double rate, std::span<double> values) {
    constexpr double kMean = 0.9, kSquare = 0.999, kTiny = 1e-8;
    ++steps_;
    const double mean_part = 1 - std::pow(kMean, steps_), square_part = 1 - std::pow(kSquare, steps_);
    for (size_t i = 0; i < values.size(); ++i) {
      mean_[i] += (1 - kMean) * (gradient[i] - mean_[i]);
      square_[i] += (1 - kSquare) * (gradient[i] * gradient[i] - square_[i]);
      const double mean = mean_[i] / mean_part;
      const double square = square_[i] / square_part;
      values[i] -= rate * mean / (std::sqrt(square) + kTiny);
    }
  }

 private:
  std::vector<double> mean_, square_;
  int steps_ = 0;
};

}  // namespace nibble
