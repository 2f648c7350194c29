#include "model/product_watch.h"

#include <cmath>
#include <utility>

namespace nibble {

void ProductWatch::name(const WeightMatrix& w, std::string name) {
  if (w.int8() == nullptr || w.float_products) return;
  index_[&w] = weights_.size();
  weights_.push_back(&w);
  sums_.push_back({std::move(name)});
}

void ProductWatch::compare(std::span<const Product> products, MatrixView<const float> x) {
  for (const Product& product : products) {
    const auto known = index_.find(product.w);
    if (known == index_.end()) continue;
    WeightMatrix exact = *product.w;  // shares the memory
    exact.float_products = true;
    std::vector<float> want(x.rows * exact.rows());
    multiply(exact, x, product.bias, matrix(want.data(), x.rows, exact.rows()));
    Sums& sums = sums_[known->second];
    sums.seen = true;
    for (size_t t = 0; t < x.rows; ++t)
      for (size_t r = 0; r < exact.rows(); ++r) {
        const auto value = static_cast<double>(want[t * exact.rows() + r]);
        const double off = static_cast<double>(product.y.row(t)[r]) - value;
        sums.difference += off * off;
        sums.reference += value * value;
      }
  }
}

std::vector<ProductWatch::Found> ProductWatch::found() const {
  std::vector<Found> out;
  for (size_t i = 0; i < sums_.size(); ++i) {
    if (!sums_[i].seen) continue;
    // Activations that int8 cannot hold make NaN, which is no small error.
    const double ratio = sums_[i].difference / sums_[i].reference;
    const double error = sums_[i].difference == 0 ? 0 : std::isnan(ratio) ? HUGE_VAL : std::sqrt(ratio);
    out.push_back({weights_[i], {sums_[i].name, error, false}});
  }
  return out;
}

}  // namespace nibble
