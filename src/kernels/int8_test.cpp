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

// Products of `w` with all tokens by way of a panel and strips, in buffers of exactly their size: [tokens][tiles * 16].
std::vector<float> products_of_panel(const Int8Table& table, const Int8Tile* w, Tokens& x, size_t tokens) {
  const size_t rows = table.tiles * kInt8Rows;
  Aligned codes(table.planes * x.blocks * 32 * rows), starts(x.spans * rows * 4), rest(x.groups * rows * 4);
  Aligned scales(x.groups * rows * 4), mins(x.groups * rows * 4);
  Int8Panel panel{x.blocks,
                  x.spans,
                  x.groups,
                  w->group,
                  0,
                  false,
                  false,
                  codes.data(),
                  reinterpret_cast<int32_t*>(starts.data()),
                  reinterpret_cast<int32_t*>(rest.data()),
                  reinterpret_cast<float*>(scales.data()),
                  reinterpret_cast<float*>(mins.data())};
  table.make_panel(w, panel);
  std::vector<float> y;
  for (size_t t = 0; t < tokens; t += table.strip) {
    const size_t count = std::min(table.strip, tokens - t);
    std::vector<uint8_t> values(x.blocks * 32 * table.strip);
    std::vector<float> token_scales(x.blocks * table.strip), sums(x.groups * table.strip), part(count * rows);
    std::vector<uint32_t> negated(x.spans * table.strip);
    const Int8Strip strip{x.blocks, x.spans, x.groups, values.data(), token_scales.data(), negated.data(), sums.data()};
    table.make_strip(x.view(), t, count, strip);
    table.panel_products(panel, strip, count, part.data());
    y.insert(y.end(), part.begin(), part.end());
  }
  return y;
}

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

TEST_P(Int8, PacksAsTheOracle) {
  for (int bits = 0; bits <= 8; ++bits)
    for (size_t blocks = 1; blocks <= 3; ++blocks) {
      const size_t stride = blocks * 32 + 5;
      const std::vector<uint8_t> codes = random_bytes(15 * stride + blocks * 32, 2, largest_code(bits) + 1);
      std::vector<uint8_t> want(blocks * int8_block_bytes(bits)), got(want.size());
      oracle().pack(codes.data(), stride, bits, blocks, want.data());
      table().pack(codes.data(), stride, bits, blocks, got.data());
      EXPECT_EQ(got, want) << bits;
      Aligned packed(want.size()), steps(blocks * 512);
      std::memcpy(packed.data(), want.data(), want.size());
      oracle().unpack(packed.data(), bits, blocks, steps.data());
      const unsigned unit = bits == kInt8SignOnly ? 2 : 1;
      for (size_t r = 0; r < 16; ++r)
        for (size_t c = 0; c < blocks * 32; ++c)
          ASSERT_EQ(steps.data()[c / 4 * 64 + 4 * r + c % 4], unit * codes[r * stride + c]) << bits << " " << r;
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
        const size_t cols = 96, blocks = 3, tokens = 15;
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
        std::vector<float> want(tokens * 16), few;
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
        const auto what = [&] {
          return std::to_string(bits) + " bits, group " + std::to_string(group) + ", kind " + std::to_string(kind);
        };
        for (size_t count = 1; count <= kInt8FewTokens; ++count) {
          few.resize(count * 16);
          table().products(w, x.view(), 3, count, few.data());
          EXPECT_EQ(few, std::vector<float>(want.begin() + 48, want.begin() + static_cast<ptrdiff_t>(16 * (3 + count))))
              << what() << ", " << count << " tokens";
        }
        if (table().strip == 0) continue;
        const std::vector<Int8Tile> tiles(table().tiles, w);
        for (size_t count = 1; count <= tokens; ++count) {
          const std::vector<float> many = products_of_panel(table(), tiles.data(), x, count);
          for (size_t t = 0; t < count; ++t)
            for (size_t r = 0; r < table().tiles * 16; ++r)
              ASSERT_EQ(many[t * table().tiles * 16 + r], want[t * 16 + r % 16]) << what() << ", row " << r;
        }
      }
}

// Two tiles of different weights, every type of scale; few and many tokens must give the same bits.
TEST_P(Int8, EveryTypeOfScaleAgreesWithTheOracle) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
    for (const size_t group : {16u, 32u, 64u, 128u})
      for (const bool with_mins : {false, true})
        for (const int bits : {3, 8}) {
          const size_t cols = 160, blocks = 5, tokens = 7;
          Tokens x(tokens, cols, group);
          for (size_t t = 0; t < tokens; ++t)
            oracle().quantize(random_floats(cols, t).data(), cols, group, x.view(), t);
          Aligned codes(2 * blocks * int8_block_bytes(bits));
          const std::vector<uint8_t> random = random_bytes(2 * blocks * int8_block_bytes(bits), 3);
          std::memcpy(codes.data(), random.data(), random.size());
          const std::vector<float> floats = random_floats(4 * x.groups * 16, 2);
          std::vector<uint16_t> halves;
          for (const float f : floats) halves.push_back(dtype == DType::kF16 ? f32_to_f16(f) : f32_to_bf16(f));
          const auto values = [&](size_t index) -> const void* {
            const size_t at = index * x.groups * 16;
            return dtype == DType::kF32 ? static_cast<const void*>(floats.data() + at) : halves.data() + at;
          };
          Int8Tile w[2];
          for (size_t i = 0; i < 2; ++i)
            w[i] = {.codes = codes.data() + i * blocks * int8_block_bytes(bits),
                    .bits = bits,
                    .blocks = blocks,
                    .group = group,
                    .scale_dtype = dtype,
                    .scales = values(i),
                    .zeros = nullptr,
                    .zero = with_mins ? 0 : 1 << (bits - 1),
                    .mins = with_mins ? values(2 + i) : nullptr};
          std::vector<float> want(tokens * 16), got(tokens * 16), other(tokens * 16);
          oracle().products(w[0], x.view(), 0, tokens, want.data());
          table().products(w[0], x.view(), 0, tokens, got.data());
          table().products(w[1], x.view(), 0, tokens, other.data());
          // |terms| sum to at most 160 columns x |scale| 1 x |code| 255 x |x| 1, and as much from the mins.
          for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-6 * 160 * (1 << bits)) << i;
          if (table().strip == 0) continue;
          const std::vector<float> many = products_of_panel(table(), w, x, tokens);
          for (size_t t = 0; t < tokens; ++t)
            for (size_t r = 0; r < table().tiles * 16; ++r)
              ASSERT_EQ(many[t * table().tiles * 16 + r], (r < 16 ? got : other)[t * 16 + r % 16])
                  << "group " << group << ", " << bits << " bits, token " << t << ", row " << r;
        }
}

}  // namespace
}  // namespace nibble::kernels
