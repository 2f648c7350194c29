#include "kernels/int8.h"

#include <cmath>
#include <cstring>

#include "core/half.h"
#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

class Int8 : public testing::TestWithParam<const Int8Table*> {
 protected:
  const Int8Table& table() const { return *GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Isa, Int8, testing::ValuesIn(available_int8().begin(), available_int8().end()),
                         [](const auto& parameter) { return std::string(parameter.param->name); });

const Int8Table& oracle() { return *available_int8().back(); }

unsigned largest_code(int bits) { return bits == kInt8SignOnly ? 1 : (1u << bits) - 1; }

// 64-byte aligned and exactly sized at its end, so that ASan sees an overrun.
class Aligned {
 public:
  explicit Aligned(size_t n) : n_(n), bytes_(static_cast<uint8_t*>(::operator new(n, std::align_val_t(64)))) {}
  ~Aligned() { ::operator delete(bytes_, std::align_val_t(64)); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  uint8_t* data() { return bytes_; }
  std::vector<uint8_t> copy() const { return {bytes_, bytes_ + n_}; }

 private:
  size_t n_;
  uint8_t* bytes_;
};

struct Tokens {
  Tokens(size_t tokens, size_t cols, size_t group)
      : blocks((cols + 31) / 32),
        spans(blocks * 32 / int8_span(group)),
        groups((blocks * 32 + group - 1) / group),
        values(tokens * blocks * 32, 99),
        scales(tokens * blocks, 99),
        sums(tokens * groups, 99),
        negated(tokens * spans, 99) {}
  Int8Tokens view() { return {blocks, spans, groups, values.data(), scales.data(), negated.data(), sums.data()}; }
  size_t blocks, spans, groups;
  std::vector<int8_t> values;
  std::vector<float> scales, sums;
  std::vector<uint32_t> negated;
};

TEST(Int8Layout, IsTheOneThatTheHeaderDescribes) {
  std::vector<uint8_t> steps(512), packed(448);
  steps[5 * 64 + 9] = 0b1101011;  // row 2, column 21
  pack_int8_block(steps.data(), 7, packed.data());
  for (size_t i = 0; i < packed.size(); ++i) {
    unsigned want = 0;
    if (i == 2 * 64 + 9) want = 0b1011u << 4;      // low four bits: vector 5 / 2, high half
    if (i == 256 + 1 * 64 + 9) want = 0b10u << 2;  // next two: vector 5 / 4, field 5 % 4
    if (i == 384 + 9) want = 1u << 5;              // last bit
    EXPECT_EQ(packed[i], want) << i;
  }
}

TEST_P(Int8, UnpacksWhatWasPacked) {
  for (int bits = 0; bits <= 8; ++bits) {
    const size_t blocks = 3;
    std::vector<uint8_t> steps = random_bytes(blocks * 512, 1, largest_code(bits) + 1);
    Aligned packed(blocks * int8_block_bytes(bits)), back(blocks * 512);
    for (size_t b = 0; b < blocks; ++b)
      pack_int8_block(steps.data() + b * 512, bits, packed.data() + b * int8_block_bytes(bits));
    table().unpack(packed.data(), bits, blocks, back.data());
    if (bits == kInt8SignOnly)
      for (uint8_t& code : steps) code = static_cast<uint8_t>(2 * code);
    EXPECT_EQ(back.copy(), steps) << bits;
  }
}

TEST_P(Int8, QuantizesAsTheOracle) {
  for (const size_t cols : lengths()) {
    if (cols == 0 || cols > 1000) continue;
    for (const size_t group : {16u, 32u, 48u, 64u}) {
      std::vector<float> x = random_floats(cols, cols, 3);
      x[cols / 2] = 0.5f;
      if (cols > 64) {
        std::fill_n(x.begin() + 32, 32, 0.0f);
        x[1] = NAN;
      }
      if (cols > 96) x[64] = 1e30f;
      Tokens want(2, cols, group), got(2, cols, group);
      oracle().quantize(x.data(), cols, group, want.view(), 1);
      table().quantize(x.data(), cols, group, got.view(), 1);
      EXPECT_EQ(got.values, want.values) << cols;
      EXPECT_EQ(got.negated, want.negated) << cols;
      for (size_t i = 0; i < want.scales.size(); ++i)
        EXPECT_TRUE(got.scales[i] == want.scales[i] || (std::isnan(got.scales[i]) && std::isnan(want.scales[i]))) << i;
      for (size_t i = 0; i < want.sums.size(); ++i)
        if (!std::isnan(want.sums[i])) {
          EXPECT_NEAR(got.sums[i], want.sums[i], 1e-6f * (1 + std::abs(want.sums[i]))) << cols << " " << i;
        }
    }
  }
}

TEST(Int8Quantize, RoundsToNearestWithinHalfAStep) {
  const std::vector<float> x = random_floats(100, 9, 5);
  Tokens tokens(1, 100, 32);
  oracle().quantize(x.data(), 100, 32, tokens.view(), 0);
  for (size_t c = 0; c < 100; ++c)
    EXPECT_NEAR(tokens.scales[c / 32] * tokens.values[c], x[c], 0.5001f * tokens.scales[c / 32]) << c;
  for (size_t c = 100; c < 128; ++c) EXPECT_EQ(tokens.values[c], 0);
}

// With scales of one and small sums, floats are exact: any wrong integer shows. Extreme codes meet extreme values, so
// that a sum of 16 bits that saturates shows too.
TEST_P(Int8, IntegerSumsAreExact) {
  for (int bits = 0; bits <= 8; ++bits)
    for (const size_t group : {16u, 32u, 64u, 96u})
      for (const int kind : {0, 1, 2, 3}) {
        const size_t cols = 96, blocks = 3, tokens = table().tokens;
        Tokens x(tokens, cols, group);
        Random random(static_cast<uint64_t>(bits) * 100 + group);
        for (size_t t = 0; t < tokens; ++t) {
          std::vector<float> row(cols);
          for (float& value : row) value = static_cast<float>(static_cast<int>(random.next() % 255) - 127);
          if (kind == 3) std::fill(row.begin(), row.end(), t % 2 == 0 ? 127.0f : -127.0f);
          for (size_t b = 0; b < blocks; ++b) row[32 * b] = 127.0f;  // scale 1
          table().quantize(row.data(), cols, group, x.view(), t);
        }
        std::vector<uint8_t> steps = random_bytes(blocks * 512, 5, largest_code(bits) + 1);
        if (kind == 3) std::fill(steps.begin(), steps.end(), static_cast<uint8_t>(largest_code(bits)));
        Aligned packed(blocks * int8_block_bytes(bits)), unpacked(blocks * 512);
        for (size_t b = 0; b < blocks; ++b)
          pack_int8_block(steps.data() + b * 512, bits, packed.data() + b * int8_block_bytes(bits));
        table().unpack(packed.data(), bits, blocks, unpacked.data());
        const std::vector<uint16_t> ones(x.groups * 16, f32_to_f16(1));
        const std::vector<uint8_t> zeros = random_bytes(x.groups * 16, 6, largest_code(bits) + 1);
        std::vector<uint16_t> mins(x.groups * 16);
        for (size_t i = 0; i < mins.size(); ++i) mins[i] = f32_to_f16(static_cast<float>(i % 7) - 3);
        Int8Tile w{.codes = packed.data(),
                   .bits = bits,
                   .blocks = blocks,
                   .group = group,
                   .scale_dtype = DType::kF16,
                   .scales = ones.data(),
                   .zeros = kind == 1 ? zeros.data() : nullptr,
                   .zero = kind == 2 || bits == 0 ? bits == 0 : 1 << (bits - 1),
                   .mins = kind == 2 ? mins.data() : nullptr};
        if (kind == 2) w.zero = 0;
        std::vector<float> want(tokens * 16), one(16), many(tokens * 16);
        oracle().unpack(packed.data(), bits, blocks, unpacked.data());
        for (size_t t = 0; t < tokens; ++t)
          for (size_t r = 0; r < 16; ++r) {
            int64_t sum = 0;
            for (size_t c = 0; c < cols; ++c) {
              const size_t at = c / group * 16 + r;
              const int code = unpacked.data()[c / 4 * 64 + 4 * r + c % 4];
              const int min = kind == 2 ? static_cast<int>(at % 7) - 3 : 0;
              const int zero = kind == 1 ? zeros[at] : w.zero;
              sum += (code - zero + min) * int{x.values[t * cols + c]};
            }
            want[t * 16 + r] = static_cast<float>(sum);
          }
        w.codes = unpacked.data();
        table().unpacked_products(w, x.view(), 0, tokens, many.data());
        EXPECT_EQ(many, want) << bits << " bits, group " << group << ", kind " << kind;
        w.codes = packed.data();
        for (size_t t = 0; t < tokens; ++t) {
          table().products(w, x.view(), t, one.data());
          EXPECT_EQ(one, std::vector<float>(want.begin() + static_cast<ptrdiff_t>(16 * t),
                                            want.begin() + static_cast<ptrdiff_t>(16 * t + 16)))
              << bits << " bits, group " << group << ", kind " << kind << ", token " << t;
        }
      }
}

TEST_P(Int8, EveryTypeOfScaleAgreesWithTheOracle) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const size_t cols = 128, group = 64;
    Tokens x(2, cols, group);
    const std::vector<float> row = random_floats(cols, 1);
    for (size_t t = 0; t < 2; ++t) oracle().quantize(row.data(), cols, group, x.view(), t);
    const std::vector<float> scales = random_floats(32, 2);
    std::vector<uint16_t> halves;
    for (const float scale : scales) halves.push_back(dtype == DType::kF16 ? f32_to_f16(scale) : f32_to_bf16(scale));
    const std::vector<uint8_t> codes = random_bytes(4 * 512, 3);
    Aligned aligned(codes.size());
    std::memcpy(aligned.data(), codes.data(), codes.size());
    const Int8Tile w{.codes = aligned.data(),
                     .bits = 8,
                     .blocks = 4,
                     .group = group,
                     .scale_dtype = dtype,
                     .scales = dtype == DType::kF32 ? static_cast<const void*>(scales.data()) : halves.data(),
                     .zeros = nullptr,
                     .zero = 128,
                     .mins = nullptr};
    std::vector<float> want(16), got(16), two(32);
    oracle().products(w, x.view(), 1, want.data());
    table().products(w, x.view(), 1, got.data());
    table().unpacked_products(w, x.view(), 0, 2, two.data());
    for (size_t r = 0; r < 16; ++r) {
      // |terms| sum to at most 128 columns x 1 x 128
      EXPECT_NEAR(got[r], want[r], 1e-6 * 128 * 128) << r;
      EXPECT_EQ(two[16 + r], got[r]) << r;
    }
  }
}

}  // namespace
}  // namespace nibble::kernels
