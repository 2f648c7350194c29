#include "quant/mxfp4_weight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/test_errors.h"
#include "quant/sample_parts.h"

namespace nibble {
namespace {

using testing::HasSubstr;

// [2, 64], the codes of every group 0, 1, ... 15, 0, 1...
SampleParts sample(Shape codes, Shape scales, const std::vector<uint8_t>& exponents) {
  SampleParts parts;
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < 64; ++i) bytes.push_back(static_cast<uint8_t>((2 * i % 16) | ((2 * i + 1) % 16) << 4));
  parts.set("_blocks", DType::kU8, std::move(codes), bytes);
  parts.set("_scales", DType::kU8, std::move(scales), exponents);
  return parts;
}

TEST(Mxfp4Weight, CodesAndPowersOfTwo) {
  for (const Shape& codes : {Shape{2, 2, 16}, Shape{2, 32}}) {
    const SampleParts parts = sample(codes, {2, 2}, {127, 128, 0, 254});
    const auto weight = Mxfp4Weight::open(parts.parts(), "_blocks", "_scales");
    EXPECT_EQ(weight.shape(), (Shape{2, 64}));
    const QuantizedMatrix q = weight.read_codes(0, 2);
    validate(q);
    std::vector<float> values(128), row(64);
    dequantize(q, matrix(values.data(), 2, 64));
    const float magnitudes[] = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
    const float scales[] = {1, 2, 0x1p-127f, 0x1p127f};
    const PackedMatrix packed = weight.packed();
    for (size_t i = 0; i < 128; ++i)
      EXPECT_EQ(values[i], magnitudes[i % 8] * (i % 16 < 8 ? 1.0f : -1.0f) * scales[i / 32]) << i;
    for (size_t r = 0; r < 2; ++r) {
      packed.load_row(r, 0, 64, row.data());
      EXPECT_TRUE(std::equal(row.begin(), row.end(), values.begin() + static_cast<std::ptrdiff_t>(64 * r)));
    }
  }
}

TEST(Mxfp4Weight, ExpertsAreRows) {
  const SampleParts parts = sample({2, 1, 2, 16}, {2, 1, 2}, {127, 127, 127, 127});
  const auto weight = Mxfp4Weight::open(parts.parts(), "_blocks", "_scales");
  EXPECT_EQ(weight.shape(), (Shape{2, 1, 64}));
  EXPECT_EQ(weight.rows(), 2u);
  EXPECT_EQ(weight.cols(), 64u);
}

TEST(Mxfp4Weight, RefusesWhatDoesNotFit) {
  const auto error = [](const SampleParts& parts) {
    return error_text([&] { Mxfp4Weight::open(parts.parts(), "_blocks", "_scales"); });
  };
  EXPECT_THAT(error(sample({2, 2, 16}, {2, 2}, {127, 255, 0, 0})), HasSubstr("m_scales: value 1 is not a number"));
  EXPECT_THAT(error(sample({2, 2, 16}, {4}, {1, 1, 1, 1})), HasSubstr("has shape [4]"));
  EXPECT_THAT(error(sample({4, 1, 16}, {2, 2}, {1, 1, 1, 1})),
              HasSubstr("m_blocks: has shape [4, 1, 16], expected [2, 2, 16]"));
  EXPECT_THAT(error(sample({2, 2, 16}, {2, 0}, {})), HasSubstr("has shape [2, 0]"));
}

}  // namespace
}  // namespace nibble
