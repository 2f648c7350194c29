#include <cmath>

#include "core/half.h"
#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

class KvKernels : public EveryTable {};

constexpr KvFormat kFormats[] = {KvFormat::kF32, KvFormat::kF16, KvFormat::kBF16, KvFormat::kQ8, KvFormat::kQ4};

bool quantized(KvFormat format) { return format == KvFormat::kQ8 || format == KvFormat::kQ4; }

// Random keys or values of `positions` in buffers of exactly their size, and what they mean, [position][column].
struct Rows {
  std::vector<float> floats;
  std::vector<uint16_t> halves, scales;
  std::vector<uint8_t> bytes;
  std::vector<double> meaning;
  KvView view;

  Rows(KvFormat format, bool keys, size_t positions, size_t width, uint64_t seed) : meaning(positions * width) {
    const size_t count = positions * width, lanes = keys ? kKvPanel : 1;
    const std::vector<float> random = nibble::kernels::random_floats(count, seed, 2);
    view.format = format, view.width = width;
    if (format == KvFormat::kF32) floats = random;
    if (format == KvFormat::kF16)
      for (const float value : random) halves.push_back(f32_to_f16(value));
    if (format == KvFormat::kBF16)
      for (const float value : random) halves.push_back(f32_to_bf16(value));
    if (quantized(format)) {
      bytes = random_bytes(format == KvFormat::kQ8 ? count : count / 2, seed + 1);
      for (size_t i = 0; i < count / kKvBlock; ++i) scales.push_back(f32_to_f16(random[i] * 0.01f));
    }
    view.data = format == KvFormat::kF32 ? static_cast<const void*>(floats.data())
                : quantized(format)      ? static_cast<const void*>(bytes.data())
                                         : static_cast<const void*>(halves.data());
    view.scales = scales.data();
    for (size_t p = 0; p < positions; ++p)
      for (size_t c = 0; c < width; ++c) {
        const size_t group = p / lanes, lane = p % lanes;
        const size_t at = (group * width + c) * lanes + lane;
        const size_t scale = (group * (width / kKvBlock) + c / kKvBlock) * lanes + lane;
        const size_t byte = (group * (width / 2) + c / 32 * 16 + c % 16) * lanes + lane;
        double value = 0;
        if (format == KvFormat::kF32) value = floats[at];
        if (format == KvFormat::kF16) value = f16_to_f32(halves[at]);
        if (format == KvFormat::kBF16) value = bf16_to_f32(halves[at]);
        if (format == KvFormat::kQ8) value = static_cast<double>(static_cast<int8_t>(bytes[at]));
        if (format == KvFormat::kQ4) value = kKvLevels[c % 32 < 16 ? bytes[byte] & 15 : bytes[byte] >> 4];
        if (quantized(format)) value *= static_cast<double>(f16_to_f32(scales[scale]));
        meaning[p * width + c] = value;
      }
  }
};

TEST_P(KvKernels, Scores) {
  for (const KvFormat format : kFormats)
    for (const size_t width : {32u, 64u, 96u, 128u, 160u})
      for (size_t rows = 1; rows <= 14; rows += width == 64 ? 1 : 6)
        for (const size_t panels : {1u, 2u, 5u, 8u}) {
          const Rows keys(format, true, panels * kKvPanel, width, rows + panels);
          const size_t stride = width + 3, score_stride = panels * kKvPanel + 5;
          const auto queries = random_floats((rows - 1) * stride + width, width, 3);
          std::vector<float> scores((rows - 1) * score_stride + panels * kKvPanel, 1e30f);
          table().kv_scores(keys.view, panels, queries.data(), stride, rows, scores.data(), score_stride);
          for (size_t r = 0; r < rows; ++r)
            for (size_t p = 0; p < panels * kKvPanel; ++p) {
              double want = 0, magnitude = 0;
              for (size_t c = 0; c < width; ++c) {
                const double term = double{queries[r * stride + c]} * keys.meaning[p * width + c];
                want += term, magnitude += std::abs(term);
              }
              ASSERT_NEAR(scores[r * score_stride + p], want, 1e-6 * magnitude)
                  << int(format) << " width " << width << " rows " << rows << " position " << p;
            }
        }
}

TEST_P(KvKernels, WeighedSums) {
  for (const KvFormat format : kFormats)
    for (const size_t width : {32u, 64u, 96u, 128u, 160u})
      for (size_t rows = 1; rows <= 14; rows += width == 64 ? 1 : 6)
        for (size_t positions = 1; positions <= 70; positions += width == 64 && rows % 6 < 2 ? 1 : 23) {
          const Rows values(format, false, positions, width, rows + positions);
          const size_t stride = positions + 3, sum_stride = width + 5;
          const auto weights = random_floats((rows - 1) * stride + positions, width, 1);
          const auto before = random_floats((rows - 1) * sum_stride + width, positions, 1);
          auto sums = before;
          table().kv_weigh(values.view, positions, weights.data(), stride, rows, sums.data(), sum_stride);
          for (size_t r = 0; r < rows; ++r)
            for (size_t c = 0; c < width; ++c) {
              double want = before[r * sum_stride + c], magnitude = std::abs(want);
              for (size_t p = 0; p < positions; ++p) {
                const double term = double{weights[r * stride + p]} * values.meaning[p * width + c];
                want += term, magnitude += std::abs(term);
              }
              ASSERT_NEAR(sums[r * sum_stride + c], want, 1e-6 * magnitude)
                  << int(format) << " width " << width << " rows " << rows << " of " << positions;
            }
        }
}

TEST_P(KvKernels, Expand) {
  for (const KvFormat format : kFormats)
    for (const size_t width : {32u, 64u, 96u})
      for (const size_t panels : {1u, 3u}) {
        const size_t positions = panels * kKvPanel;
        const Rows keys(format, true, positions, width, 1), values(format, false, positions - 1, width, 2);
        std::vector<float> k(positions * width), v((positions - 1) * width);
        table().kv_expand_keys(keys.view, panels, k.data());
        table().kv_expand_values(values.view, positions - 1, v.data());
        for (size_t p = 0; p < positions; ++p)
          for (size_t c = 0; c < width; ++c) {
            const double key = keys.meaning[p * width + c];
            ASSERT_NEAR(k[(p / kKvPanel * width + c) * kKvPanel + p % kKvPanel], key, 6e-8 * std::abs(key));
            if (p + 1 == positions) continue;
            const double value = values.meaning[p * width + c];
            ASSERT_NEAR(v[p * width + c], value, 6e-8 * std::abs(value));
          }
      }
}

// Squared error of a block with its codes, in double.
double error_of(const float* x, const uint8_t* codes, double scale) {
  double error = 0;
  for (size_t i = 0; i < kKvBlock; ++i) {
    const double off = double{x[i]} - scale * kKvLevels[codes[i]];
    error += off * off;
  }
  return error;
}

TEST_P(KvKernels, FourBitsAreTheBestOfTheTries) {
  constexpr size_t kBlocks = 200;
  Random random(5);
  std::vector<float> x(kBlocks * kKvBlock);
  // Normally distributed (Box & Muller 1958).
  for (float& value : x)
    value =
        static_cast<float>(std::sqrt(-2 * std::log(1 - random.uniform())) * std::cos(6.283185307 * random.uniform()));
  std::vector<uint8_t> codes(x.size());
  std::vector<uint16_t> scales(kBlocks);
  table().quantize_q4(x.data(), kBlocks, codes.data(), scales.data());
  double error = 0, square = 0;
  for (size_t b = 0; b < kBlocks; ++b) {
    const float* block = x.data() + b * kKvBlock;
    const double got = error_of(block, codes.data() + b * kKvBlock, f16_to_f32(scales[b]));
    double best = INFINITY, top = 0, squares = 0;
    for (size_t i = 0; i < kKvBlock; ++i) {
      squares += double{block[i]} * double{block[i]};
      if (std::abs(block[i]) > std::abs(top)) top = block[i];
    }
    for (const double share : {0.85, 1.0, 1.15}) {
      const double scale = top * share / kKvLevels[0];
      uint8_t tried[kKvBlock];
      double product = 0, levels = 0;
      for (size_t i = 0; i < kKvBlock; ++i) {
        tried[i] = 0;
        for (uint8_t code = 1; code < 16; ++code)
          if (std::abs(block[i] - scale * kKvLevels[code]) < std::abs(block[i] - scale * kKvLevels[tried[i]]))
            tried[i] = code;
        const double level = kKvLevels[tried[i]];
        product += double{block[i]} * level, levels += level * level;
      }
      best = std::min(best, error_of(block, tried, product / levels));
    }
    // Rounding of the scale to f16, and ties.
    ASSERT_LE(got, best + 1e-5 * squares);
    error += got, square += squares;
  }
  EXPECT_LT(error / square, 0.0064);  // even steps from -8 to 7 have 0.0074
}

TEST_P(KvKernels, FourBitsOfOddBlocks) {
  std::vector<float> x(kKvBlock, 0.0f);
  std::vector<uint8_t> codes(kKvBlock);
  uint16_t scale = 1;
  table().quantize_q4(x.data(), 1, codes.data(), &scale);
  EXPECT_EQ(f16_to_f32(scale), 0.0f);
  x[7] = -3;
  table().quantize_q4(x.data(), 1, codes.data(), &scale);
  EXPECT_NEAR(f16_to_f32(scale) * static_cast<float>(kKvLevels[codes[7]]), -3, 0.2);  // no level is 0: the zeros pull
  x[30] = 5;
  table().quantize_q4(x.data(), 1, codes.data(), &scale);
  EXPECT_NEAR(f16_to_f32(scale) * static_cast<float>(kKvLevels[codes[30]]), 5, 0.5);
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    x[3] = bad;
    table().quantize_q4(x.data(), 1, codes.data(), &scale);
    EXPECT_TRUE(std::isnan(f16_to_f32(scale))) << bad;
  }
}

TEST_P(KvKernels, SoftmaxInParts) {
  for (size_t n = 1; n <= 70; ++n) {
    const auto x = random_floats(n, n, 30);
    for (size_t cut = 1; cut <= n; cut += 1 + n / 7) {
      float top = -INFINITY;
      double sum = 0;
      auto parts = x;
      table().softmax_part(parts.data(), cut, &top, &sum);
      const float factor = table().softmax_part(parts.data() + cut, n - cut, &top, &sum);
      double want_top = -INFINITY, want_sum = 0;
      for (const float value : x) want_top = std::max(want_top, double{value});
      for (const float value : x) want_sum += std::exp(double{value} - want_top);
      ASSERT_EQ(top, want_top);
      ASSERT_NEAR(sum, want_sum, 1e-5 * want_sum);
      for (size_t i = 0; i < n; ++i) {
        const double want = std::exp(double{x[i]} - want_top);
        ASSERT_NEAR(double{parts[i]} * (i < cut ? double{factor} : 1.0), want, 1e-5 * want) << n << " " << cut;
      }
    }
  }
}

TEST_P(KvKernels, RopeTurnsPairs) {
  for (size_t half = 0; half <= 70; ++half) {
    const auto before = random_floats(2 * half, 1), cosines = random_floats(half, 2), sines = random_floats(half, 3);
    auto head = before;
    table().rope(head.data(), half, cosines.data(), sines.data());
    for (size_t i = 0; i < half; ++i) {
      const double a = before[i], b = before[i + half], c = cosines[i], s = sines[i];
      ASSERT_NEAR(head[i], a * c - b * s, 2e-7 * (std::abs(a * c) + std::abs(b * s)));
      ASSERT_NEAR(head[i + half], b * c + a * s, 2e-7 * (std::abs(b * c) + std::abs(a * s)));
    }
  }
}

TEST_P(KvKernels, HadamardIsSylvesters) {
  for (size_t n = 1; n <= 256; n *= 2) {
    const auto before = random_floats(n, n);
    auto x = before;
    table().hadamard(x.data(), n, 0.5f);
    for (size_t i = 0; i < n; ++i) {
      double want = 0, magnitude = 0;
      for (size_t k = 0; k < n; ++k) {
        want += (__builtin_popcountll(i & k) % 2 == 0 ? 0.5 : -0.5) * double{before[k]};
        magnitude += 0.5 * std::abs(double{before[k]});
      }
      ASSERT_NEAR(x[i], want, 5e-7 * magnitude) << n;
    }
    // Its own inverse up to the factor n.
    table().hadamard(x.data(), n, 2.0f / static_cast<float>(n));
    for (size_t i = 0; i < n; ++i) ASSERT_NEAR(x[i], before[i], 3e-6) << n;
  }
}

NIBBLE_FOR_EVERY_TABLE(KvKernels);

}  // namespace
}  // namespace nibble::kernels
