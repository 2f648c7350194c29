#include "quant/fp8_weight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/test_errors.h"
#include "quant/sample_parts.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::string_view kScale = ".weight_scale_inv";

// [3, 5] of ones (0x38) and twos (0x40).
SampleParts sample(Shape shape, const std::vector<float>& scales) {
  SampleParts parts;
  parts.set<uint8_t>(".weight", DType::kF8E4M3, {3, 5},
                     {0x38, 0x38, 0x38, 0x38, 0x38, 0x40, 0x40, 0x40, 0x40, 0x40, 0x38, 0x40, 0x38, 0x40, 0x38});
  parts.set(std::string(kScale), DType::kF32, std::move(shape), scales);
  return parts;
}

std::vector<float> values(const Fp8Weight& weight) {
  const QuantizedMatrix q = weight.read_codes(0, 3);
  validate(q);
  std::vector<float> out(15), row(5);
  dequantize(q, matrix(out.data(), 3, 5));
  const PackedMatrix packed = weight.packed();
  for (size_t r = 0; r < 3; ++r) {
    packed.load_row(r, 0, 5, row.data());
    EXPECT_TRUE(std::equal(row.begin(), row.end(), out.begin() + static_cast<std::ptrdiff_t>(5 * r))) << r;
  }
  return out;
}

TEST(Fp8Weight, BlocksMayBeCutAtTheEdges) {
  const SampleParts parts = sample({2, 3}, {1, 10, 100, 2, 20, 200});
  const auto weight = Fp8Weight::open(parts.parts(), kScale, Fp8Weight::Block{2, 2});
  EXPECT_THAT(values(weight), ElementsAre(1, 1, 10, 10, 100, 2, 2, 20, 20, 200, 2, 4, 20, 40, 200));
  EXPECT_EQ(weight.read_codes(2, 3).scales, (std::vector<float>{2, 20, 200}));
  EXPECT_EQ(weight.bytes(), 15u + 24);
}

TEST(Fp8Weight, OneScaleOrOneForEachRow) {
  for (const Shape& shape : {Shape{}, Shape{1}}) {
    const SampleParts parts = sample(shape, {3});
    EXPECT_THAT(values(Fp8Weight::open(parts.parts(), kScale, {})),
                ElementsAre(3, 3, 3, 3, 3, 6, 6, 6, 6, 6, 3, 6, 3, 6, 3));
  }
  for (const Shape& shape : {Shape{3}, Shape{3, 1}}) {
    const SampleParts parts = sample(shape, {1, 2, 3});
    EXPECT_THAT(values(Fp8Weight::open(parts.parts(), kScale, {})),
                ElementsAre(1, 1, 1, 1, 1, 4, 4, 4, 4, 4, 3, 6, 3, 6, 3));
  }
}

TEST(Fp8Weight, RefusesWhatDoesNotFit) {
  const auto error = [](const SampleParts& parts, std::optional<Fp8Weight::Block> block) {
    return error_text([&] { Fp8Weight::open(parts.parts(), kScale, block); });
  };
  EXPECT_THAT(error(sample({2, 2}, {1, 1, 1, 1}), Fp8Weight::Block{2, 2}),
              HasSubstr("has shape [2, 2], blocks of 2 x 2 need [2, 3]"));
  EXPECT_THAT(error(sample({2}, {1, 1}), {}), HasSubstr("expected one value, or one for each of 3 rows"));
  EXPECT_THAT(error(sample({3}, {1, INFINITY, 1}), {}), HasSubstr("value 1 is not a finite number"));
  SampleParts parts = sample({1}, {1});
  parts.erase(std::string(kScale));
  EXPECT_THAT(error(parts, {}), HasSubstr("m.weight_scale_inv: is missing"));
}

}  // namespace
}  // namespace nibble
