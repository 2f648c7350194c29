#include "quant/bitsandbytes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/test_errors.h"
#include "quant/sample_parts.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string kState = ".weight.quant_state.bitsandbytes__";

// [2, 4] in blocks of `block`; the codes are 0, 1, 2...
SampleParts sample(const std::string& kind, size_t block, bool nested) {
  SampleParts parts;
  parts.set<uint8_t>(".weight", DType::kU8, {4, 1}, {0x01, 0x23, 0x45, 0x67});
  const auto nf4 = grid_levels(Grid::kNF4);
  parts.set(".weight.quant_map", DType::kF32, {16}, std::vector<float>(nf4.begin(), nf4.end()));
  const size_t blocks = 8 / block;
  std::string state = R"({"quant_type": ")" + kind + R"(", "blocksize": )" + std::to_string(block) +
                      R"(, "dtype": "bfloat16", "shape": [2, 4])";
  if (nested) {
    parts.set(".weight.absmax", DType::kU8, {blocks}, std::vector<uint8_t>(blocks, 3));
    std::vector<float> map(256, 0);
    map[3] = 0.5f;
    parts.set(".weight.nested_quant_map", DType::kF32, {256}, map);
    parts.set(".weight.nested_absmax", DType::kF32, {1}, std::vector<float>{3});
    state += R"(, "nested_blocksize": 256, "nested_offset": 0.5, "nested_dtype": "float32")";
  } else {
    std::vector<float> scales(blocks);
    for (size_t i = 0; i < blocks; ++i) scales[i] = 1 + static_cast<float>(i);
    parts.set(".weight.absmax", DType::kF32, {blocks}, scales);
  }
  parts.set_text(kState + kind, state + "}");
  return parts;
}

TEST(Bitsandbytes4, IsCanonicalWhereBlocksEndWithRows) {
  const SampleParts parts = sample("nf4", 2, false);
  ASSERT_TRUE(Bitsandbytes4::present(parts.parts()));
  const auto weight = Bitsandbytes4::open(parts.parts());
  EXPECT_TRUE(weight.canonical());
  EXPECT_EQ(weight.dtype(), DType::kBF16);
  const QuantizedMatrix q = weight.read_codes(1, 2);
  validate(q);
  EXPECT_THAT(q.codes, ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(q.scales, ElementsAre(3, 4));
  float values[4], packed[4];
  weight.read_rows(1, 2, values);
  const PackedMatrix matrix = weight.packed();
  matrix.load_row(1, 0, 4, packed);
  const auto nf4 = grid_levels(Grid::kNF4);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(values[i], nf4[4 + i] * (i < 2 ? 3.0f : 4.0f));
    EXPECT_EQ(packed[i], values[i]);
  }
  EXPECT_EQ(weight.code_bytes(1, 2).size(), 2u);
}

TEST(Bitsandbytes4, ScalesMayBeQuantizedThemselves) {
  const auto weight = Bitsandbytes4::open(sample("nf4", 4, true).parts());
  EXPECT_THAT(weight.read_codes(0, 2).scales, ElementsAre(2, 2));  // 0.5 * 3 + 0.5
}

TEST(Bitsandbytes4, FP4HasAGridToo) {
  SampleParts parts = sample("fp4", 4, false);
  const auto levels = grid_levels(Grid::kFP4Bnb);
  parts.set(".weight.quant_map", DType::kF32, {16}, std::vector<float>(levels.begin(), levels.end()));
  const auto weight = Bitsandbytes4::open(parts.parts());
  ASSERT_TRUE(weight.canonical());
  EXPECT_EQ(weight.spec().grid, Grid::kFP4Bnb);
  float values[4], expected[4];
  weight.read_rows(1, 2, values);
  dequantize(weight.read_codes(1, 2), matrix(expected, 1, 4));
  EXPECT_THAT(values, testing::ElementsAreArray(expected));
}

TEST(Bitsandbytes4, OtherLevelsAndBlocksAreValuesOnly) {
  EXPECT_FALSE(Bitsandbytes4::open(sample("fp4", 4, false).parts()).canonical());  // with the levels of NF4
  const auto weight = Bitsandbytes4::open(sample("nf4", 8, false).parts());
  EXPECT_FALSE(weight.canonical());
  float values[4];
  weight.read_rows(1, 2, values);
  EXPECT_EQ(values[0], grid_levels(Grid::kNF4)[4]);
}

TEST(Bitsandbytes4, RefusesWhatDoesNotFit) {
  const auto error = [](const auto& change) {
    SampleParts parts = sample("nf4", 2, true);
    change(parts);
    return error_text([&] { Bitsandbytes4::open(parts.parts()); });
  };
  EXPECT_EQ(error([](SampleParts&) {}), "");
  EXPECT_THAT(error([](SampleParts& p) { p.erase(kState + "nf4"); }), HasSubstr("is missing"));
  EXPECT_THAT(error([](SampleParts& p) { p.erase(".weight.nested_quant_map"); }),
              HasSubstr("nested_quant_map: is missing"));
  EXPECT_THAT(error([](SampleParts& p) {
                p.set<uint8_t>(".weight", DType::kU8, {3}, {0, 0, 0});
              }),
              HasSubstr("m.weight: has 3 bytes, its quant_state says 2 x 4"));
  EXPECT_THAT(error([](SampleParts& p) { p.set<float>(".weight.quant_map", DType::kF32, {1}, {0}); }),
              HasSubstr("has 1 values, expected 16"));
  EXPECT_THAT(error([](SampleParts& p) { p.set<uint8_t>(".weight.absmax", DType::kU8, {1}, {0}); }),
              HasSubstr("absmax: has shape [1], expected [4]"));
  EXPECT_THAT(error([](SampleParts& p) { p.set<float>(".weight.nested_absmax", DType::kF32, {1}, {NAN}); }),
              HasSubstr("not a finite number"));
  for (const char* state : {"", "[]", "{}", R"({"shape": [2]})", R"({"shape": [2, -4]})",
                            R"({"shape": [2, 4], "blocksize": 0, "dtype": "float32"})",
                            R"({"shape": [4611686018427387904, 4611686018427387904], "blocksize": 64, "dtype": "x"})"})
    EXPECT_NE(error([&](SampleParts& p) { p.set_text(kState + "nf4", state); }), "") << state;
}

TEST(Bitsandbytes8, RowsHaveScales) {
  SampleParts parts;
  parts.set<int8_t>(".weight", DType::kI8, {2, 2}, {127, -127, 0, 5});
  parts.set<float>(".SCB", DType::kF32, {2}, {127, 254});
  parts.set<uint8_t>(".weight_format", DType::kU8, {}, {0});
  ASSERT_TRUE(Bitsandbytes8::present(parts.parts()));
  const auto weight = Bitsandbytes8::open(parts.parts());
  const QuantizedMatrix q = weight.read_codes(0, 2);
  validate(q);
  float values[4];
  dequantize(q, matrix(values, 2, 2));
  EXPECT_THAT(values, ElementsAre(127, -127, 0, 10));
  EXPECT_EQ(weight.packed().rows, 2u);
  parts.set<float>(".SCB", DType::kF32, {1}, {1});
  EXPECT_THAT(error_text([&] { Bitsandbytes8::open(parts.parts()); }), HasSubstr("m.SCB: has shape [1], expected [2]"));
}

}  // namespace
}  // namespace nibble
