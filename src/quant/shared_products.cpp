#include <algorithm>
#include <array>
#include <cassert>

#include "quant/weight_matrix.h"

namespace nibble {
namespace {

// Can the product run with that of `first` in one pass over activations that are quantized once?
bool joins(const WeightMatrix& w, const WeightMatrix& first) {
  return w.int8() != nullptr && first.int8() != nullptr && !w.float_products && !first.float_products &&
         w.activations.mode == ActivationSpec::Mode::kNone && first.activations.mode == ActivationSpec::Mode::kNone &&
         share_activations(*w.int8(), *first.int8());
}

}  // namespace

void multiply(std::span<const Product> products, MatrixView<const float> x) {
  constexpr size_t kMost = 4;  // that are handed over at once
  for (size_t i = 0; i < products.size();) {
    std::array<Int8Product, kMost> together;
    size_t count = 0;
    for (; count < kMost && i + count < products.size() && joins(*products[i + count].w, *products[i].w); ++count) {
      const Product& product = products[i + count];
      assert(x.cols == product.w->cols() && product.y.cols == product.w->rows());
      together[count] = {product.w->int8(), product.bias, product.y};
    }
    if (count > 1) {
      multiply(std::span(together).first(count), x);
      i += count;
    } else {
      multiply(*products[i].w, x, products[i].bias, products[i].y);
      ++i;
    }
  }
}

}  // namespace nibble
