#include "quant/ggml_blocks.h"

#include <gmock/gmock.h>

#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using testing::HasSubstr;
using namespace testing_support;

constexpr DType kBlockTypes[] = {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0,   DType::kQ5_1,
                                 DType::kQ8_0, DType::kQ2_K, DType::kQ3_K,   DType::kQ4_K,
                                 DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS};

TEST(GgmlBlocks, ValuesAreThoseOfGgufPyBitForBit) {
  const auto file = golden("ggml_blocks.safetensors");
  for (DType dtype : kBlockTypes) {
    const std::string name(info(dtype).name);
    const TensorView& blocks = file.at(name + ".bytes");
    const TensorView& want_view = file.at(name + ".values");
    const size_t rows = want_view.shape[0], cols = want_view.shape[1];
    const QuantizedMatrix q = import_ggml_rows(dtype, rows, cols, blocks.bytes);
    EXPECT_NO_THROW(validate(q)) << name;
    EXPECT_EQ(q.spec, ggml_spec(dtype)) << name;
    const std::vector<float> got = values_of(q), want = values<float>(want_view);
    for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], want[i]) << name << " at " << i;
    // A row alone gives the same.
    const QuantizedMatrix last = import_ggml_rows(dtype, 1, cols, blocks.bytes.last(blocks.bytes.size() / rows));
    EXPECT_TRUE(same(last, rows_of(q, rows - 1, rows))) << name;
  }
}

TEST(GgmlBlocks, PlainTypesHaveNoSpec) {
  EXPECT_FALSE(ggml_spec(DType::kF32));
  EXPECT_FALSE(ggml_spec(DType::kI8));
  EXPECT_THROW(import_ggml_rows(DType::kF16, 1, 1, {}), Error);
}

TEST(GgmlBlocks, RefusesWrongExtentsAndScales) {
  for (DType dtype : kBlockTypes) {
    const DTypeInfo& layout = info(dtype);
    std::vector<std::byte> bytes(2 * layout.block_bytes);
    EXPECT_NO_THROW(import_ggml_rows(dtype, 2, layout.block, bytes));
    EXPECT_THROW(import_ggml_rows(dtype, 2, layout.block - 1, bytes), Error);
    for (size_t size = 0; size < bytes.size(); ++size) {
      const std::vector<std::byte> prefix(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
      EXPECT_THROW(import_ggml_rows(dtype, 2, layout.block, prefix), Error) << layout.name;
    }
    std::fill(bytes.begin() + static_cast<ptrdiff_t>(layout.block_bytes), bytes.end(), std::byte{0x7e});  // f16 NaN
    EXPECT_THAT(message_of([&] { import_ggml_rows(dtype, 2, layout.block, bytes); }), HasSubstr("row 1: "));
  }
  EXPECT_THROW(import_ggml_rows(DType::kQ4_0, size_t{1} << 60, size_t{1} << 40, {}), Error);
}

}  // namespace
}  // namespace nibble
