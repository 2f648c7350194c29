#include "quant/input_collector.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/half.h"
#include "core/random.h"
#include "core/test_errors.h"
#include "core/threads.h"
#include "kernels/bf16.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

std::vector<float> random_inputs(size_t count, uint64_t seed) {
  Random random(seed);
  std::vector<float> x(count);
  for (float& value : x) value = static_cast<float>(random.uniform() * 4 - 2);
  return x;
}

InputStats collect(const std::vector<float>& x, size_t cols, bool bf16, size_t document) {
  InputCollector collector(cols, true, bf16);
  const size_t tokens = x.size() / cols;
  for (size_t t = 0; t < tokens; t += document)
    collector.add(matrix(x.data() + t * cols, std::min(document, tokens - t), cols));
  return collector.finish();
}

TEST(InputCollector, AgreesWithDoubleSums) {
  for (const bool bf16 : {false, true})
    for (const size_t cols : {size_t{1}, size_t{7}, size_t{16}, size_t{33}, size_t{70}, size_t{130}})
      for (const size_t tokens : {size_t{1}, size_t{5}, size_t{511}, size_t{512}, size_t{1030}}) {
        const std::vector<float> x = random_inputs(tokens * cols, cols + tokens);
        const InputStats stats = collect(x, cols, bf16, 700);
        ASSERT_EQ(stats.tokens, tokens);
        const bool rounded = bf16 && kernels::fast_bf16(kernels::active()) != nullptr;
        const auto value = [&](size_t t, size_t c) {
          const float v = x[t * cols + c];
          return static_cast<double>(rounded ? bf16_to_f32(f32_to_bf16(v)) : v);
        };
        for (size_t r = 0; r < cols; ++r) {
          for (size_t c = 0; c <= r; ++c) {
            double want = 0, magnitude = 0;
            for (size_t t = 0; t < tokens; ++t) {
              want += value(t, r) * value(t, c);
              magnitude += std::abs(value(t, r) * value(t, c));
            }
            const auto n = static_cast<double>(tokens);
            ASSERT_NEAR(stats.gram[r * (r + 1) / 2 + c], want / n, 4e-6 * magnitude / n)
                << "bf16 " << bf16 << " cols " << cols << " tokens " << tokens << " at " << r << ", " << c;
          }
          double square = 0, sum = 0;
          float most = 0;
          for (size_t t = 0; t < tokens; ++t) {
            const float a = std::abs(x[t * cols + r]);
            square += static_cast<double>(a) * static_cast<double>(a);
            sum += static_cast<double>(a);
            most = std::max(most, a);
          }
          EXPECT_FLOAT_EQ(stats.mean_square[r], static_cast<float>(square / static_cast<double>(tokens)));
          EXPECT_FLOAT_EQ(stats.mean_abs[r], static_cast<float>(sum / static_cast<double>(tokens)));
          EXPECT_EQ(stats.max_abs[r], most);
        }
      }
}

TEST(InputCollector, DoesNotDependOnTheThreadCount) {
  const std::vector<float> x = random_inputs(600 * 100, 3);
  set_thread_count(1);
  const InputStats one = collect(x, 100, true, 600);
  set_thread_count(3);
  const InputStats three = collect(x, 100, true, 600);
  set_thread_count(0);
  EXPECT_EQ(one.gram, three.gram);
  EXPECT_EQ(one.mean_square, three.mean_square);
}

TEST(InputCollector, RefusesWhatIsNotFinite) {
  std::vector<float> x = random_inputs(10 * 20, 1);
  x[57] = std::numeric_limits<float>::quiet_NaN();
  InputCollector collector(20, true, false);
  EXPECT_EQ(error_kind([&] { collector.add(matrix<const float>(x.data(), 10, 20)); }), ErrorKind::kCorrupt);
}

// Sums of squares leave the range of float long before their means do.
TEST(InputCollector, TakesInputsWhoseSquaresBarelyFitAFloat) {
  const std::vector<float> x(64 * 3, 1e19f);
  InputCollector collector(3, false, false);
  collector.add(matrix(x.data(), 64, 3));
  for (const float mean : collector.finish().mean_square) EXPECT_FLOAT_EQ(mean, 1e19f * 1e19f);
}

}  // namespace
}  // namespace nibble
