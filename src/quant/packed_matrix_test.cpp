#include "quant/packed_matrix.h"

#include <gmock/gmock.h>

#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using testing::HasSubstr;
using namespace testing_support;

TEST(PackedCodes, MatchTheGoldenStreams) {
  const auto file = golden("quant_golden.safetensors");
  for (int bits = 1; bits <= 8; ++bits) {
    const TensorView& codes_view = file.at(cat("stream.", bits, ".codes"));
    const auto codes = values<uint8_t>(codes_view), packed = values<uint8_t>(file.at(cat("stream.", bits, ".packed")));
    const size_t cols = codes_view.shape[1], stride = packed.size() / 2;
    for (size_t row = 0; row < 2; ++row) {
      std::vector<uint8_t> bytes((cols * static_cast<size_t>(bits) + 7) / 8, 0xff), back(cols);
      pack_codes(codes.data() + row * cols, bits, cols, bytes.data());
      for (size_t i = 0; i < stride; ++i)
        EXPECT_EQ(i < bytes.size() ? bytes[i] : 0, packed[row * stride + i]) << bits << " bits, byte " << i;
      unpack_codes(bytes.data(), bits, 0, cols, back.data());
      EXPECT_TRUE(std::equal(back.begin(), back.end(), codes.begin() + static_cast<ptrdiff_t>(row * cols)));
    }
  }
}

TEST(PackedCodes, EveryLengthRoundTripsInExactlySizedBuffers) {
  Random random(3);
  for (int bits = 1; bits <= 8; ++bits)
    for (size_t count = 0; count < 70; ++count) {
      std::vector<uint8_t> codes(count), packed((count * static_cast<size_t>(bits) + 7) / 8, 0xff), back(count);
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random.next() & ((1u << bits) - 1));
      pack_codes(codes.data(), bits, count, packed.data());
      unpack_codes(packed.data(), bits, 0, count, back.data());
      ASSERT_EQ(back, codes) << bits << " bits, " << count;
      if (const size_t used = count * static_cast<size_t>(bits) % 8; used != 0) {
        ASSERT_EQ(packed.back() >> used, 0) << bits << " bits, " << count;
      }
    }
}

TEST(PackedMatrix, LoadsAnyPartOfARowAsDequantizeDoes) {
  Random random(9);
  for (const QuantSpec& spec : every_spec()) {
    const size_t rows = 3, cols = 1130;  // longer than load_row's scratch
    const QuantizedMatrix q = random_matrix(spec, rows, cols, 11);
    PackedMatrixBuilder builder(spec, rows, cols);
    builder.add(2, rows_of(q, 2, 3));
    builder.add(0, rows_of(q, 0, 2));
    const PackedMatrix packed = builder.finish();
    EXPECT_EQ(packed.row_stride, (cols * static_cast<size_t>(spec.bits) + 7) / 8);
    ASSERT_TRUE(same(unpack_rows(packed, 0, rows), q)) << describe(spec);
    ASSERT_TRUE(same(unpack_rows(packed, 1, 2), rows_of(q, 1, 2))) << describe(spec);

    const std::vector<float> want = values_of(q);
    for (int i = 0; i < 10; ++i) {
      const size_t row = random.next() % rows, begin = i == 0 ? 0 : random.next() % cols;
      const size_t count = i == 0 ? cols : random.next() % (cols - begin + 1);
      std::vector<float> out(count);
      packed.load_row(row, begin, count, out.data());
      for (size_t c = 0; c < count; ++c) ASSERT_EQ(out[c], want[row * cols + begin + c]) << describe(spec);
    }
  }
}

TEST(PackedMatrix, KeepsGroupsOfColumns) {
  QuantizedMatrix q = random_matrix({.bits = 3, .group = 4}, 2, 10, 2);
  q.group_of = {2, 0, 1, 1, 0, 2, 2, 0, 1, 0};
  PackedMatrixBuilder builder(q.spec, q.rows, q.cols);
  builder.add(1, rows_of(q, 1, 2));
  builder.add(0, rows_of(q, 0, 1));
  const PackedMatrix packed = builder.finish();
  EXPECT_TRUE(same(unpack_rows(packed, 0, 2), q));
  const std::vector<float> want = values_of(q);
  std::vector<float> out(7);
  packed.load_row(1, 2, 7, out.data());
  EXPECT_EQ(out, std::vector<float>(want.begin() + 12, want.begin() + 19));
}

TEST(PackedMatrix, CountsItsBytes) {
  const QuantizedMatrix q = random_matrix({.bits = 4, .group = 32, .symmetric = false}, 2, 65, 1);
  PackedMatrixBuilder builder(q.spec, q.rows, q.cols);
  builder.add(0, q);
  EXPECT_EQ(builder.finish().bytes(), 2u * (33 + 3 * (4 + 1)));
}

TEST(PackedMatrix, RefusesSlicesThatDoNotFit) {
  const QuantSpec spec{.bits = 4, .group = 32};
  PackedMatrixBuilder builder(spec, 4, 64);
  EXPECT_THROW(builder.add(0, random_matrix({.bits = 5, .group = 32}, 4, 64, 1)), Error);
  EXPECT_THROW(builder.add(0, random_matrix(spec, 4, 65, 1)), Error);
  EXPECT_THROW(builder.add(1, random_matrix(spec, 4, 64, 1)), Error);
  EXPECT_THROW(builder.add(5, random_matrix(spec, 0, 64, 1)), Error);
  EXPECT_NO_THROW(builder.add(0, random_matrix(spec, 4, 64, 1)));
}

TEST(PackedMatrix, RefusesSlicesThatDisagreeAboutTheTensorsScale) {
  const QuantSpec spec{.bits = 4, .group = 0, .per_tensor = true};
  QuantizedMatrix q = random_matrix(spec, 2, 8, 1);
  PackedMatrixBuilder builder(spec, 2, 8);
  builder.add(0, rows_of(q, 0, 1));
  q.scales[0] += 1;
  builder.add(1, rows_of(q, 1, 2));
  EXPECT_THAT(message_of([&] { builder.finish(); }), HasSubstr("disagree"));
}

}  // namespace
}  // namespace nibble
