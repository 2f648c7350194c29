#include <gmock/gmock.h>

#include "quant/ggml_blocks.h"
#include "quant/ggml_two_level.h"
#include "quant/sample_blocks.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using testing::HasSubstr;
using namespace testing_support;

TEST(GgmlExport, CodesAndValuesSurviveAndBytesRepeat) {
  for (const DType dtype : kBlockTypes)
    for (unsigned seed = 0; seed < 20; ++seed) {
      const QuantizedMatrix q = random_blocks(dtype, 3, 512, seed);
      const auto bytes = export_ggml_rows(dtype, q);
      ASSERT_EQ(bytes.size(), byte_size(dtype, 3 * 512));
      const QuantizedMatrix back = import_ggml_rows(dtype, 3, 512, bytes);
      ASSERT_EQ(back.codes, q.codes) << info(dtype).name;
      ASSERT_EQ(back.scales, q.scales) << info(dtype).name;
      ASSERT_EQ(back.mins, q.mins) << info(dtype).name;
      ASSERT_EQ(export_ggml_rows(dtype, back), bytes) << info(dtype).name;
    }
}

TEST(GgmlExport, BlocksOfGgufPyKeepTheirValues) {
  const auto file = golden("ggml_blocks.safetensors");
  for (const DType dtype : kBlockTypes) {
    const std::string name(info(dtype).name);
    const TensorView& blocks = file.at(name + ".bytes");
    const Shape& shape = file.at(name + ".values").shape;
    const QuantizedMatrix q = import_ggml_rows(dtype, shape[0], shape[1], blocks.bytes);
    const QuantizedMatrix back = import_ggml_rows(dtype, shape[0], shape[1], export_ggml_rows(dtype, q));
    EXPECT_EQ(values_of(back), values_of(q)) << name;
    EXPECT_EQ(back.codes, q.codes) << name;
  }
}

TEST(GgmlExport, NarrowCodesAndLargeGroupsFitWiderBlocks) {
  QuantizedMatrix q;
  q.spec = {.bits = 3, .group = 64, .scale_dtype = DType::kF16};
  q.rows = 2;
  q.cols = 128;
  for (size_t i = 0; i < 256; ++i) q.codes.push_back(static_cast<uint8_t>(i * 5 % 8));
  q.scales = {0.5f, -0.25f, 2.0f, 1.5f};
  ASSERT_EQ(ggml_type_for(q.spec, q.cols), DType::kQ4_0);
  EXPECT_EQ(values_of(import_ggml_rows(DType::kQ4_0, 2, 128, export_ggml_rows(DType::kQ4_0, q))), values_of(q));
  q.spec.group = QuantSpec::kWholeRow;
  q.scales = {0.5f, -0.25f};
  EXPECT_EQ(values_of(import_ggml_rows(DType::kQ4_0, 2, 128, export_ggml_rows(DType::kQ4_0, q))), values_of(q));
}

TEST(GgmlExport, RefusesWhatBlocksCannotHold) {
  QuantizedMatrix q = random_blocks(DType::kQ4_0, 2, 64, 1);
  q.scales[3] = 1.0f + 0x1p-12f;  // no F16
  EXPECT_THAT(message_of([&] { export_ggml_rows(DType::kQ4_0, q); }), HasSubstr("row 1: a scale"));
  EXPECT_THAT(message_of([&] { export_ggml_rows(DType::kQ4_1, q); }), HasSubstr("do not hold"));
  EXPECT_THAT(message_of([&] { export_ggml_rows(DType::kF16, q); }), HasSubstr("not a GGML block type"));
  QuantizedMatrix k = random_blocks(DType::kQ4_K, 1, 256, 1);
  k.scales[0] = 1.0f, k.scales[1] = 100.0f, k.scales[2] = 99.0f;  // 100 : 99 : 1 takes integers above 63
  EXPECT_THAT(message_of([&] { export_ggml_rows(DType::kQ4_K, k); }), HasSubstr("row 0: a scale"));
  EXPECT_FALSE(ggml_type_for({.bits = 4, .group = 16}, 64));
  EXPECT_FALSE(ggml_type_for({.bits = 4, .group = 32, .symmetric = false}, 64));
  EXPECT_FALSE(ggml_type_for({.bits = 4, .group = 32}, 48));
  EXPECT_FALSE(ggml_type_for({.bits = 1, .group = 32}, 64));
}

TEST(TwoLevels, TheLargestBaseIsFound) {
  const float values[] = {6.0f, -4.0f, 0.0f, 62.0f};
  const auto split = split_two_levels(values, -32, 31);
  ASSERT_TRUE(split);
  EXPECT_EQ(split->base, 2.0f);
  EXPECT_THAT(std::vector<int>(split->integers, split->integers + 4), testing::ElementsAre(3, -2, 0, 31));
  const float negative[] = {64.0f, -62.0f};  // 32 lies outside, -32 inside
  EXPECT_EQ(split_two_levels(negative, -32, 31)->base, -2.0f);
  // 4095 has too many digits for an F16: a fraction of it is the base.
  const float wide[] = {4095.0f, 8190.0f};
  EXPECT_EQ(split_two_levels(wide, 0, 63)->base, 1365.0f);
  const float zeros[] = {0.0f, -0.0f};
  EXPECT_EQ(split_two_levels(zeros, 0, 15)->base, 0.0f);
  const float far[] = {1e-30f, 1.0f};
  EXPECT_FALSE(split_two_levels(far, 0, 63));
}

}  // namespace
}  // namespace nibble
