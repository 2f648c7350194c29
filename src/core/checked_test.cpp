#include "core/checked.h"

#include <gtest/gtest.h>

#include "core/dtype.h"
#include "core/tensor.h"
#include "core/test_errors.h"

namespace nibble {
namespace {

TEST(Checked, ArithmeticStopsAtTheBorder) {
  EXPECT_EQ(checked_mul(SIZE_MAX, 1, "x"), SIZE_MAX);
  EXPECT_EQ(checked_mul(size_t{1} << 32, (size_t{1} << 32) - 1, "x"), SIZE_MAX - 0xffffffff);
  EXPECT_EQ(error_text([] { checked_mul(size_t{1} << 32, size_t{1} << 32, "extent"); }),
            "extent is too large: 4294967296 x 4294967296");
  EXPECT_EQ(checked_add(SIZE_MAX - 1, 1, "x"), SIZE_MAX);
  EXPECT_EQ(error_kind([] { checked_add(SIZE_MAX, 1, "x"); }), ErrorKind::kCorrupt);
}

TEST(Checked, CastKeepsTheValueOrThrows) {
  EXPECT_EQ((checked_cast<uint8_t>(255, "x")), 255);
  EXPECT_THROW((checked_cast<uint8_t>(256, "x")), Error);
  EXPECT_THROW((checked_cast<size_t>(-1, "x")), Error);
  EXPECT_THROW((checked_cast<int64_t>(UINT64_MAX, "x")), Error);
  EXPECT_EQ(error_text([] { checked_cast<int8_t>(uint8_t{200}, "x"); }), "x is out of range: 200");  // not a character
}

TEST(Checked, CeilDivAndRoundUp) {
  EXPECT_EQ(ceil_div(0, 4), 0u);
  EXPECT_EQ(ceil_div(1, 4), 1u);
  EXPECT_EQ(ceil_div(4, 4), 1u);
  EXPECT_EQ(ceil_div(SIZE_MAX, 2), SIZE_MAX / 2 + 1);
  EXPECT_EQ(round_up(33, 32), 64u);
  EXPECT_EQ(round_up(64, 32), 64u);
}

TEST(Tensor, ElementCount) {
  EXPECT_EQ(element_count({}), 1u);
  EXPECT_EQ(element_count({3, 0, 5}), 0u);
  EXPECT_EQ(element_count({3, 4, 5}), 60u);
  EXPECT_THROW(element_count({size_t{1} << 40, size_t{1} << 40}), Error);
}

TEST(Tensor, MatrixViewRows) {
  int data[12] = {};
  EXPECT_EQ(matrix(data, 3, 4).row(2), data + 8);
  EXPECT_EQ((MatrixView<int>{data, 2, 3, 6}.row(1)), data + 6);
}

TEST(DType, SizesAreThoseOfTheFormats) {
  struct Row {
    DType dtype;
    const char* name;
    size_t block, bytes;
  };
  // Bytes per block from ggml's structures: scales and minima, then quants.
  const Row rows[] = {
      {DType::kF64, "F64", 1, 8},
      {DType::kF32, "F32", 1, 4},
      {DType::kF16, "F16", 1, 2},
      {DType::kBF16, "BF16", 1, 2},
      {DType::kF8E4M3, "F8_E4M3", 1, 1},
      {DType::kF8E5M2, "F8_E5M2", 1, 1},
      {DType::kI64, "I64", 1, 8},
      {DType::kI32, "I32", 1, 4},
      {DType::kI16, "I16", 1, 2},
      {DType::kI8, "I8", 1, 1},
      {DType::kU64, "U64", 1, 8},
      {DType::kU32, "U32", 1, 4},
      {DType::kU16, "U16", 1, 2},
      {DType::kU8, "U8", 1, 1},
      {DType::kBool, "BOOL", 1, 1},
      {DType::kQ4_0, "Q4_0", 32, 2 + 16},
      {DType::kQ4_1, "Q4_1", 32, 4 + 16},
      {DType::kQ5_0, "Q5_0", 32, 2 + 4 + 16},
      {DType::kQ5_1, "Q5_1", 32, 4 + 4 + 16},
      {DType::kQ8_0, "Q8_0", 32, 2 + 32},
      {DType::kQ2_K, "Q2_K", 256, 4 + 16 + 64},
      {DType::kQ3_K, "Q3_K", 256, 2 + 12 + 32 + 64},
      {DType::kQ4_K, "Q4_K", 256, 4 + 12 + 128},
      {DType::kQ5_K, "Q5_K", 256, 4 + 12 + 32 + 128},
      {DType::kQ6_K, "Q6_K", 256, 2 + 16 + 128 + 64},
      {DType::kIQ4_NL, "IQ4_NL", 32, 2 + 16},
      {DType::kIQ4_XS, "IQ4_XS", 256, 2 + 2 + 4 + 128},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(info(row.dtype).name, row.name);
    EXPECT_EQ(info(row.dtype).block, row.block) << row.name;
    EXPECT_EQ(info(row.dtype).block_bytes, row.bytes) << row.name;
    EXPECT_EQ(is_block_type(row.dtype), row.block > 1) << row.name;
  }
  EXPECT_EQ(byte_size(DType::kQ4_1, 33), 40u);  // whole blocks
  EXPECT_THROW(byte_size(DType::kF64, SIZE_MAX / 4), Error);
  EXPECT_TRUE(is_float(DType::kBF16));
  EXPECT_FALSE(is_float(DType::kF8E4M3));
  EXPECT_FALSE(is_float(DType::kQ8_0));
}

}  // namespace
}  // namespace nibble
