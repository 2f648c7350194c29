#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/threads.h"
#include "kernels/every_table.h"

// Test support: what every product of inputs with the rows of a weight must satisfy. `Product` has
//   Loader, Element                   how the weight is read, and as what
//   stored(float) -> Element          a weight as it is held, and back:
//   weight(Element) -> double
//   input(float) -> double            an input as the product sees it
//   multiply(x, loader, bias, y)
namespace nibble::kernels {

// A weight held in a buffer of exactly rows x cols.
template <class Product>
struct HeldWeight {
  using Element = typename Product::Element;

  HeldWeight(const Product& product, size_t rows, size_t columns, uint64_t seed) : cols(columns) {
    for (const float value : random_floats(rows * columns, seed)) values.push_back(product.stored(value));
  }

  typename Product::Loader loader() const {
    return {this, [](const void* self, size_t row, size_t begin, size_t count, Element* out) noexcept {
              const auto& held = *static_cast<const HeldWeight*>(self);
              std::copy_n(held.values.data() + row * held.cols + begin, count, out);
            }};
  }

  size_t cols;
  std::vector<Element> values;
};

// Against sums in double; rows of x and y are `pad` longer than what belongs to them.
template <class Product>
void check_product(const Product& product, size_t tokens, size_t rows, size_t depth, size_t pad, bool with_bias) {
  const HeldWeight<Product> w(product, rows, depth, rows + 1);
  const std::vector<float> bias = random_floats(rows, 5);
  const size_t x_stride = depth + pad, y_stride = rows + pad;
  const std::vector<float> x = random_floats(tokens == 0 ? 0 : tokens * x_stride - pad, depth + 2);
  std::vector<float> y(tokens == 0 ? 0 : tokens * y_stride - pad, 99.0f);
  product.multiply({x.data(), tokens, depth, x_stride}, w.loader(), with_bias ? bias.data() : nullptr,
                   {y.data(), tokens, rows, y_stride});
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t t = i / y_stride, r = i % y_stride;
    if (r >= rows) {
      ASSERT_EQ(y[i], 99.0f) << "padding of y was written";
      continue;
    }
    double want = with_bias ? static_cast<double>(bias[r]) : 0, magnitude = std::abs(want);
    for (size_t c = 0; c < depth; ++c) {
      const double term = product.input(x[t * x_stride + c]) * product.weight(w.values[r * depth + c]);
      want += term, magnitude += std::abs(term);
    }
    ASSERT_NEAR(y[i], want, 2e-6 * magnitude) << tokens << " x " << rows << " x " << depth << " at " << t << ", " << r;
  }
}

template <class Product>
void check_every_small_extent(const Product& product) {
  for (size_t n = 0; n <= 70; ++n) {
    check_product(product, n, 37, 21, n % 3, n % 2 == 0);
    check_product(product, 15, n, 19, n % 3, n % 2 == 1);
    check_product(product, 9, 33, n, n % 3, n % 2 == 0);
  }
}

template <class Product>
void check_sampled_shapes(const Product& product) {
  Random random(3);
  for (int i = 0; i < 60; ++i)
    check_product(product, 1 + random.next() % 70, 1 + random.next() % 70, 1 + random.next() % 70, random.next() % 5,
                  i % 2 == 0);
}

template <class Product>
void check_thread_counts(const Product& product) {
  const HeldWeight<Product> w(product, 301, 900, 1);
  const std::vector<float> x = random_floats(23 * 900, 2);
  std::vector<float> results[3];
  size_t threads = 1;
  for (std::vector<float>& y : results) {
    y.resize(23 * 301);
    set_thread_count(threads++);
    product.multiply(matrix(x.data(), 23, 900), w.loader(), nullptr, matrix(y.data(), 23, 301));
  }
  set_thread_count(0);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

}  // namespace nibble::kernels
