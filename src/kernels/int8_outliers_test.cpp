#include "kernels/int8_outliers.h"

#include <cmath>
#include <cstring>

#include "core/half.h"
#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

class OutliersOf : public testing::TestWithParam<const OutlierTable*> {
 protected:
  const OutlierTable& table() const { return *GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Isa, OutliersOf, testing::ValuesIn(available_outliers().begin(), available_outliers().end()),
                         [](const auto& parameter) { return std::string(parameter.param->name); });

struct Split {
  std::vector<float> rest;
  std::vector<uint32_t> columns;
  std::vector<float> values;
};

Split split(const OutlierTable& table, const std::vector<float>& x) {
  const size_t blocks = (x.size() + kInt8Block - 1) / kInt8Block;
  Split out{std::vector<float>(x.size(), 99), std::vector<uint32_t>(blocks), std::vector<float>(blocks)};
  const size_t count = table.split(x.data(), x.size(), out.rest.data(), out.columns.data(), out.values.data());
  EXPECT_LE(count, blocks);
  out.columns.resize(count), out.values.resize(count);
  return out;
}

TEST_P(OutliersOf, AreMoreThanThreeTimesTheNext) {
  std::vector<float> x(96, 1.0f);
  x[3] = -3;  // not more than three times: stays
  x[40] = 11.0f;
  x[70] = 7, x[80] = -6;  // each keeps the other from being one
  const Split out = split(table(), x);
  EXPECT_EQ(out.columns, std::vector<uint32_t>{40});
  EXPECT_EQ(out.values, std::vector<float>{11.0f});
  x[40] = 0;
  EXPECT_EQ(out.rest, x);
}

TEST_P(OutliersOf, OfZerosAndOfWhatIsNotFinite) {
  std::vector<float> x(64, 0.0f);
  EXPECT_TRUE(split(table(), x).columns.empty());
  x[5] = 1e-38f;
  EXPECT_EQ(split(table(), x).columns, std::vector<uint32_t>{5});
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    x[7] = bad;
    EXPECT_TRUE(split(table(), x).columns.empty());
  }
}

TEST_P(OutliersOf, EveryLengthAsTheScalarTable) {
  for (size_t n = 1; n <= 70; ++n)
    for (uint64_t seed = 0; seed < 20; ++seed) {
      Random random(seed);
      std::vector<float> x(n);
      for (float& value : x)
        value = static_cast<float>(random.uniform() - 0.5) * (random.uniform() < 0.1 ? 12.0f : 1.0f);
      const Split want = split(*available_outliers().back(), x), got = split(table(), x);
      ASSERT_EQ(got.columns, want.columns) << n;
      ASSERT_EQ(got.values, want.values) << n;
      ASSERT_EQ(got.rest, want.rest) << n;
      // The definition again, by sorting.
      std::vector<float> sizes;
      for (size_t c = 0; c < std::min<size_t>(n, 32); ++c) sizes.push_back(std::abs(x[c]));
      sizes.push_back(0);
      std::sort(sizes.rbegin(), sizes.rend());
      const bool found = !got.columns.empty() && got.columns[0]<32, expected = sizes[0]> 3 * sizes[1];
      ASSERT_EQ(found, expected) << n;
    }
}

// Tiles with every kind of zero, as values of the oracle's codes.
TEST_P(OutliersOf, ColumnsAreTheWeightsThatTheCodesStandFor) {
  const size_t blocks = 3, group = 48, groups = 2;
  for (int bits = 0; bits <= 8; ++bits)
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
      for (const int kind : {0, 1, 2}) {  // one zero, zeros, mins
        Random random(static_cast<uint64_t>(bits * 9 + kind));
        std::vector<uint8_t> steps(blocks * kInt8Steps * kInt8Vector);
        const unsigned codes = bits == kInt8SignOnly ? 2 : 1u << bits;
        for (uint8_t& code : steps) code = static_cast<uint8_t>(random.uniform() * codes);
        alignas(64) uint8_t packed[3 * 8 * 64];
        for (size_t b = 0; b < blocks; ++b)
          pack_int8_block(steps.data() + b * 512, bits, packed + b * int8_block_bytes(bits));
        std::vector<float> scale(groups * 16), min(groups * 16);
        std::vector<uint8_t> zeros(groups * 16);
        std::vector<uint16_t> scale_bits, min_bits;
        for (size_t i = 0; i < scale.size(); ++i) {
          scale[i] = static_cast<float>(i + 1) / 16, min[i] = static_cast<float>(i) / 8 - 1;
          zeros[i] = static_cast<uint8_t>(random.uniform() * codes);
          scale_bits.push_back(dtype == DType::kF16 ? f32_to_f16(scale[i]) : f32_to_bf16(scale[i]));
          min_bits.push_back(dtype == DType::kF16 ? f32_to_f16(min[i]) : f32_to_bf16(min[i]));
        }
        const bool wide = dtype == DType::kF32;
        const Int8Tile tile = {.codes = packed,
                               .bits = bits,
                               .blocks = blocks,
                               .group = group,
                               .scale_dtype = dtype,
                               .scales = wide ? static_cast<const void*>(scale.data()) : scale_bits.data(),
                               .zeros = kind == 1 ? zeros.data() : nullptr,
                               .zero = kind == 0 ? 1 : 0,
                               .mins = kind != 2 ? nullptr
                                       : wide    ? static_cast<const void*>(min.data())
                                                 : min_bits.data()};
        std::vector<uint32_t> columns;
        for (uint32_t c = 0; c < blocks * 32; ++c) columns.push_back(c);
        constexpr size_t kStride = 20;
        std::vector<float> out((columns.size() - 1) * kStride + 16);
        table().load(tile, columns.data(), columns.size(), out.data(), kStride);
        for (size_t c = 0; c < columns.size(); ++c)
          for (size_t r = 0; r < 16; ++r) {
            const unsigned field = steps[c / 4 * 64 + 4 * r + c % 4];
            const float code = static_cast<float>(bits == kInt8SignOnly ? 2 * field : field);
            const size_t at = c / group * 16 + r;
            const float zero = kind == 1 ? zeros[at] : kind == 0 ? 1.0f : 0.0f;
            const float want = kind == 2 ? scale[at] * code + min[at] : scale[at] * (code - zero);
            ASSERT_EQ(out[c * kStride + r], want)
                << bits << " bits, kind " << kind << ", column " << c << ", row " << r;
          }
      }
}

TEST_P(OutliersOf, AddsInOrder) {
  for (const size_t rows : {16u, 32u})
    for (size_t count = 0; count <= 9; ++count) {
      Random random(count);
      std::vector<float> loaded(12 * rows), values(count), y(rows);
      for (auto* numbers : {&loaded, &values, &y})
        for (float& value : *numbers) value = static_cast<float>(random.uniform() - 0.5);
      std::vector<uint32_t> at;
      for (size_t k = 0; k < count; ++k) at.push_back(static_cast<uint32_t>((7 * k + 3) % 12));
      std::vector<float> want = y;
      for (size_t k = 0; k < count; ++k)
        for (size_t r = 0; r < rows; ++r) want[r] = std::fma(values[k], loaded[at[k] * rows + r], want[r]);
      table().add(loaded.data(), rows, at.data(), values.data(), count, y.data());
      ASSERT_EQ(y, want) << count;
    }
}

}  // namespace
}  // namespace nibble::kernels
