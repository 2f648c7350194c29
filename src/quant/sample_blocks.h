#pragma once
#include <cmath>
#include <cstddef>
#include <random>

#include "core/dtype.h"
#include "quant/ggml_blocks.h"
#include "quant/quantized_matrix.h"

// For tests: random matrices that GGML's blocks hold.
namespace nibble::testing_support {

inline constexpr DType kBlockTypes[] = {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0,   DType::kQ5_1,
                                        DType::kQ8_0, DType::kQ2_K, DType::kQ3_K,   DType::kQ4_K,
                                        DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS};

// Any codes, scales and mins that blocks of the type can hold; some groups, blocks and rows are all zero.
inline QuantizedMatrix random_blocks(DType dtype, size_t rows, size_t cols, unsigned seed) {
  std::mt19937 random(seed);
  const auto below = [&](int limit) { return static_cast<int>(random() % static_cast<unsigned>(limit)); };
  QuantizedMatrix q;
  q.spec = ggml_spec(dtype).value();
  q.rows = rows;
  q.cols = cols;
  for (size_t i = 0; i < rows * cols; ++i) q.codes.push_back(static_cast<uint8_t>(below(1 << q.spec.bits)));
  const bool two_levels = info(dtype).block > q.spec.group;
  const size_t block_groups = info(dtype).block / q.spec.group;
  const int low = dtype == DType::kQ6_K ? -128 : dtype == DType::kQ3_K || dtype == DType::kIQ4_XS ? -32 : 0;
  const int high = dtype == DType::kQ6_K ? 127 : low < 0 ? 31 : dtype == DType::kQ2_K ? 15 : 63;
  for (size_t b = 0; b < rows * cols / info(dtype).block; ++b) {
    const bool zero = b % 5 == 3;
    const float d = zero ? 0.0f : std::ldexp(static_cast<float>(1024 + below(1024)), -10 - below(14));
    const float dmin = b % 7 == 2 ? 0.0f : std::ldexp(static_cast<float>(1024 + below(1024)), -10 - below(14));
    for (size_t g = 0; g < block_groups; ++g) {
      const int scale = g % 6 == 4 ? 0 : low + below(high - low + 1);
      q.scales.push_back(two_levels ? d * static_cast<float>(scale) : b % 2 == 0 || q.spec.mins ? d : -d);
      if (q.spec.mins) q.mins.push_back(two_levels ? -(dmin * static_cast<float>(below(high + 1))) : dmin - d);
    }
  }
  if (q.spec.mins && !two_levels)
    for (float& min : q.mins) min = std::ldexp(std::rint(std::ldexp(min, 8)), -8);
  return q;
}

}  // namespace nibble::testing_support
