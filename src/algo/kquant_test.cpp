#include <gmock/gmock.h>

#include <cmath>

#include "algo/algorithm.h"
#include "quant/ggml_blocks.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr DType kBlockTypes[] = {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0,   DType::kQ5_1,
                                 DType::kQ8_0, DType::kQ2_K, DType::kQ3_K,   DType::kQ4_K,
                                 DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS};
constexpr size_t kRows = 5, kCols = 512;

std::vector<float> normal_weights(uint64_t seed) {
  Random random(seed);
  std::vector<float> w(kRows * kCols);
  for (float& x : w) {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += random.uniform();
    x = static_cast<float>(0.02 * sum);
  }
  return w;
}

QuantizedMatrix quantized(DType dtype, const std::vector<float>& w, const InputFactor* inputs = nullptr,
                          size_t first = 0, size_t rows = kRows) {
  const auto algorithm = make_algorithm("kquant", {});
  const QuantSpec spec = algorithm->spec_for(ggml_target_spec(dtype));
  return algorithm->quantize({matrix<const float>(w.data() + first * kCols, rows, kCols), spec, {}, inputs});
}

double relative_error(const QuantizedMatrix& q, const std::vector<float>& w, const std::vector<float>* h = nullptr) {
  const auto back = values_of(q);
  double error = 0, signal = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double weight = h ? double{(*h)[i % kCols]} : 1.0, d = double{back[i]} - double{w[i]};
    error += weight * d * d;
    signal += weight * double{w[i]} * double{w[i]};
  }
  return error / signal;
}

// Error of normal weights relative to their power: about what an optimal quantizer of that width leaves (Max 1960), a
// little more for coarse scales. A broken search or a lost second level is far outside.
TEST(KQuant, ErrorsAreThoseOfTheWidth) {
  const auto w = normal_weights(1);
  const std::map<DType, double> most = {{DType::kQ2_K, 0.085},  {DType::kQ3_K, 0.027},    {DType::kQ4_K, 0.0062},
                                        {DType::kQ5_K, 0.0016}, {DType::kQ6_K, 0.0004},   {DType::kQ4_0, 0.0085},
                                        {DType::kQ4_1, 0.0062}, {DType::kQ5_0, 0.002},    {DType::kQ5_1, 0.0016},
                                        {DType::kQ8_0, 3e-5},   {DType::kIQ4_NL, 0.0075}, {DType::kIQ4_XS, 0.0075}};
  for (const auto& [dtype, limit] : most) EXPECT_LT(relative_error(quantized(dtype, w), w), limit) << info(dtype).name;
}

TEST(KQuant, BlocksHoldEveryResultExactly) {
  auto w = normal_weights(2);
  std::fill_n(w.begin(), 32, 0.0f);                 // a group,
  std::fill_n(w.begin() + kCols, 256, 0.0f);        // a block
  std::fill_n(w.begin() + 2 * kCols, kCols, 0.0f);  // and a row of zeros
  w[3 * kCols + 7] = 3.0f;                          // an outlier
  for (const DType dtype : kBlockTypes) {
    const QuantizedMatrix q = quantized(dtype, w);
    validate(q);
    const auto bytes = export_ggml_rows(dtype, q);
    const QuantizedMatrix back = import_ggml_rows(dtype, kRows, kCols, bytes);
    EXPECT_EQ(back.codes, q.codes) << info(dtype).name;
    EXPECT_EQ(back.scales, q.scales) << info(dtype).name;
    EXPECT_EQ(back.mins, q.mins) << info(dtype).name;
    const auto values = values_of(q);
    for (size_t c = 0; c < kCols; ++c) ASSERT_EQ(values[2 * kCols + c], 0) << info(dtype).name << " column " << c;
    for (size_t c = 0; c < 32; ++c) ASSERT_EQ(values[c], 0) << info(dtype).name << " column " << c;
    EXPECT_NEAR(values[3 * kCols + 7], 3.0f, 0.2f) << info(dtype).name;
  }
}

// A model that was stored in such blocks before, each with its lowest and its highest code, gets the same values again.
// At 8 bits the scales tried around a range are several steps apart: none but the range itself leads there.
TEST(KQuant, WeightsOnTheGridStayThere) {
  Random random(5);
  for (const DType dtype : {DType::kQ4_1, DType::kQ5_1, DType::kQ8_0})
    for (uint64_t seed = 0; seed < 20; ++seed) {
      QuantizedMatrix q = quantized(dtype, normal_weights(seed));
      const int top = (1 << q.spec.bits) - 1;
      for (size_t i = 0; i < q.codes.size(); ++i)
        q.codes[i] = i % 32 == 3 ? uint8_t{0} : static_cast<uint8_t>(i % 32 == 20 ? top : random.uniform() * (top + 1));
      const auto w = values_of(q);
      EXPECT_EQ(values_of(quantized(dtype, w)), w) << info(dtype).name << ", seed " << seed;
    }
}

TEST(KQuant, RowsDoNotDependOnTheirSlice) {
  const auto w = normal_weights(3);
  for (const DType dtype : kBlockTypes) {
    const QuantizedMatrix all = quantized(dtype, w), last = quantized(dtype, w, nullptr, 3, 2);
    EXPECT_TRUE(same(rows_of(all, 3, 5), last)) << info(dtype).name;
  }
}

TEST(KQuant, ImportantColumnsGainFromStatistics) {
  const auto w = normal_weights(4);
  InputFactor inputs;
  inputs.cols = kCols;
  for (size_t c = 0; c < kCols; ++c) inputs.importance.push_back(c % 16 == 3 ? 100.0f : c % 16 == 9 ? 0.0f : 1.0f);
  for (const DType dtype : kBlockTypes) {
    const double with = relative_error(quantized(dtype, w, &inputs), w, &inputs.importance);
    const double without = relative_error(quantized(dtype, w), w, &inputs.importance);
    EXPECT_LT(with, 0.95 * without) << info(dtype).name;
  }
}

TEST(KQuant, RefusesOtherGrids) {
  const auto algorithm = make_algorithm("kquant", {});
  EXPECT_THAT(message_of([&] { algorithm->spec_for({.bits = 4, .group = 128}); }), testing::HasSubstr("gguf:TYPE"));
  EXPECT_THAT(message_of([&] { algorithm->spec_for({.bits = 3, .group = 32}); }), testing::HasSubstr("gguf:TYPE"));
}

}  // namespace
}  // namespace nibble
