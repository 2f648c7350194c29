#include <gmock/gmock.h>

#include <cmath>

#include "algo/algorithm.h"
#include "quant/packed_matrix.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using namespace testing_support;

QuantizedMatrix quantized(const std::vector<float>& w, size_t rows, const QuantSpec& spec,
                          const AlgorithmSettings& settings = {}) {
  const auto [lo, hi] = std::minmax_element(w.begin(), w.end());
  return make_algorithm("rtn", settings)->quantize({matrix(w.data(), rows, w.size() / rows), spec, {*lo, *hi}});
}

TEST(Rtn, MatchesTheNumpyReference) {
  const auto file = golden("quant_golden.safetensors");
  const auto w = values<float>(file.at("weight"));
  for (int bits : {2, 3, 4, 8})
    for (std::string_view kind : {"sym", "full", "asym"})
      for (size_t group : {size_t{32}, size_t{40}, size_t{96}}) {
        const std::string name = cat("rtn.", kind, ".", bits, ".", group);
        const QuantSpec spec{.bits = bits, .group = group, .symmetric = kind != "asym", .full_range = kind == "full"};
        const QuantizedMatrix q = quantized(w, 4, spec);
        EXPECT_EQ(q.spec, spec);
        EXPECT_EQ(q.scales, values<float>(file.at(name + ".scales"))) << name;
        EXPECT_EQ(q.codes, values<uint8_t>(file.at(name + ".codes"))) << name;
        EXPECT_EQ(q.zeros, kind == "asym" ? values<uint8_t>(file.at(name + ".zeros")) : std::vector<uint8_t>{}) << name;
      }
}

std::vector<float> random_weights(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> w(n);
  for (float& x : w) x = static_cast<float>((random.uniform() - random.uniform()) * (random.uniform() < 0.02 ? 8 : 1));
  return w;
}

// For every algorithm that rounds by itself: valid output, rows that do not depend on the slices, errors within half a
// step where nothing saturates, and a round trip through PackedMatrix.
TEST(EveryAlgorithm, EverySpecIsValidAndIndependentOfSlices) {
  const size_t rows = 5, cols = 130;
  const auto w = random_weights(rows * cols, 3);
  const std::pair<float, float> range = {*std::min_element(w.begin(), w.end()), *std::max_element(w.begin(), w.end())};
  for (const AlgorithmEntry& entry : algorithms()) {
    if (!entry.make || entry.name == "kquant") continue;  // kquant makes GGUF's blocks alone: kquant_test.cpp
    const auto algorithm = make_algorithm(entry.name, {});
    size_t accepted = 0;
    for (const QuantSpec& asked : every_spec()) {
      QuantSpec spec = asked;
      try {
        spec = algorithm->spec_for(asked);
        algorithm->quantize({matrix(w.data(), rows, cols), spec, range});
      } catch (const Error& refusal) {
        ASSERT_EQ(refusal.kind(), ErrorKind::kUsage) << refusal.what();
        continue;
      }
      ++accepted;
      const QuantizedMatrix q = algorithm->quantize({matrix(w.data(), rows, cols), spec, range});
      ASSERT_NO_THROW(validate(q)) << describe(spec);
      ASSERT_EQ(q.spec, spec);
      for (size_t begin = 0; begin < rows; begin += 2) {
        const size_t end = std::min(rows, begin + 2);
        const MatrixView<const float> slice{w.data() + begin * cols, end - begin, cols, cols};
        ASSERT_TRUE(same(algorithm->quantize({slice, spec, range}), rows_of(q, begin, end)))
            << entry.name << " " << describe(spec);
      }
      PackedMatrixBuilder builder(spec, rows, cols);
      builder.add(0, q);
      ASSERT_TRUE(same(unpack_rows(builder.finish(), 0, rows), q));
    }
    EXPECT_GE(accepted, 100u) << entry.name;
  }
}

TEST(EveryAlgorithm, ReadsStridedRows) {
  const size_t rows = 3, cols = 50, stride = 64;
  const auto wide = random_weights(rows * stride, 8);
  std::vector<float> dense;
  for (size_t r = 0; r < rows; ++r)
    dense.insert(dense.end(), wide.begin() + static_cast<ptrdiff_t>(r * stride),
                 wide.begin() + static_cast<ptrdiff_t>(r * stride + cols));
  for (const AlgorithmEntry& entry : algorithms()) {
    if (!entry.make || entry.name == "kquant") continue;
    const auto algorithm = make_algorithm(entry.name, {});
    const QuantSpec spec = algorithm->spec_for({.bits = 4, .group = 16, .symmetric = false});
    EXPECT_TRUE(same(algorithm->quantize({{wide.data(), rows, cols, stride}, spec}),
                     algorithm->quantize({matrix<const float>(dense.data(), rows, cols), spec})));
  }
}

TEST(Rtn, ErrorsStayWithinHalfAStep) {
  const auto w = random_weights(4 * 128, 5);
  for (int bits = 2; bits <= 8; ++bits)
    for (bool symmetric : {true, false}) {
      const QuantSpec spec{.bits = bits, .group = 32, .symmetric = symmetric};
      const QuantizedMatrix q = quantized(w, 4, spec);
      const auto back = values_of(q);
      for (size_t i = 0; i < w.size(); ++i) {
        const float step = std::abs(q.scales[i / 32]);
        // A rounded zero point moves an asymmetric range by up to half a step.
        ASSERT_LE(std::abs(w[i] - back[i]), step * (symmetric ? 0.5f : 1.0f) * 1.0001f) << bits;
      }
    }
}

TEST(Rtn, ClipShrinksTheRange) {
  const std::vector<float> w = {-7, 1, 2, 3};
  EXPECT_EQ(quantized(w, 1, {.bits = 4, .group = 0}).scales[0], 1.0f);
  const QuantizedMatrix q = quantized(w, 1, {.bits = 4, .group = 0}, {{"clip", 0.5}});
  EXPECT_EQ(q.scales[0], 0.5f);
  EXPECT_THAT(q.codes, testing::ElementsAre(0, 10, 12, 14));
}

TEST(Rtn, OneScalePerTensorComesFromTheGivenRange) {
  const std::vector<float> w = {1, -2, 3, 0.5f};
  const auto q = make_algorithm("rtn", {})->quantize(
      {matrix(w.data(), 2, 2), {.bits = 4, .group = 0, .per_tensor = true}, {-14.0f, 3.0f}});
  EXPECT_THAT(q.scales, testing::ElementsAre(2.0f));
  EXPECT_THAT(q.codes, testing::ElementsAre(8, 7, 10, 8));  // 0.5, -1, 1.5, 0.25 steps
}

}  // namespace
}  // namespace nibble
