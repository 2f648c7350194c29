#include "quant/transposed_weight.h"

#include <gmock/gmock.h>

#include <cstring>
#include <limits>
#include <map>
#include <thread>

#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using namespace testing_support;

constexpr TransposedLayout kLayouts[] = {TransposedLayout::kGptqV1, TransposedLayout::kGptqV2, TransposedLayout::kAwq};

TransposedFormat format_of(TransposedLayout layout, const QuantSpec& spec) {
  return {layout, spec.bits, spec.group, spec.symmetric};
}

// One encoded weight in memory, each tensor in a buffer of exactly its size.
struct Stored {
  std::map<std::string, TensorView, std::less<>> tensors;

  Stored(TransposedLayout layout, const QuantizedMatrix& q, size_t tile_codes = TransposedEncoder::kTileCodes,
         std::vector<size_t> cuts = {}) {
    TransposedEncoder encoder(layout, q.spec, q.rows, q.cols, !q.group_of.empty(), tile_codes);
    std::vector<std::shared_ptr<std::vector<std::byte>>> buffers;
    std::vector<std::vector<int>> writes;
    for (const TransposedSlot& slot : transposed_slots(layout, q.spec, q.rows, q.cols)) {
      const size_t size = byte_size(slot.dtype, element_count(slot.shape));
      buffers.push_back(std::make_shared<std::vector<std::byte>>(size));
      writes.emplace_back(size);
      tensors[std::string(slot.suffix)] = {slot.dtype, slot.shape, *buffers.back(), buffers.back()};
    }
    const TransposedEncoder::Sink sink = [&](size_t slot, size_t offset, std::span<const std::byte> bytes) {
      ASSERT_LE(offset + bytes.size(), buffers.at(slot)->size());
      for (size_t i = 0; i < bytes.size(); ++i) {
        (*buffers[slot])[offset + i] = bytes[i];
        ++writes[slot][offset + i];
      }
    };
    cuts.push_back(q.rows);
    for (size_t i = cuts.size(); i-- > 0;) {  // last slice first
      const size_t begin = i == 0 ? 0 : cuts[i - 1];
      encoder.write(begin, rows_of(q, begin, cuts[i]), sink);
    }
    encoder.finish(sink);
    for (const auto& slot : writes)
      for (const int count : slot) EXPECT_EQ(count, 1) << "every byte is written once";
  }

  TransposedWeight::Find find() const {
    return [this](std::string_view suffix) -> const TensorView* {
      const auto found = tensors.find(suffix);
      return found == tensors.end() ? nullptr : &found->second;
    };
  }
  TransposedWeight open(const TransposedFormat& format) const { return TransposedWeight::open("m", format, find()); }
  uint32_t word(std::string_view suffix, size_t index) const {
    return values<uint32_t>(tensors.find(suffix)->second).at(index);
  }
};

// Zero points as readers of the layout are sure of.
QuantizedMatrix sample(TransposedLayout layout, const QuantSpec& spec, size_t rows, size_t cols, uint64_t seed) {
  QuantizedMatrix q = random_matrix(spec, rows, cols, seed);
  if (layout == TransposedLayout::kGptqV1)
    for (uint8_t& zero : q.zeros) zero = std::max<uint8_t>(zero, 1);
  return q;
}

// The property behind `convert`: whatever random weight the layout admits comes back as it was.
TEST(TransposedWeight, EverySpecWithoutAnObstacleRoundTrips) {
  Random random(7);
  size_t admitted = 0, refused = 0;
  for (const TransposedLayout layout : kLayouts)
    for (const QuantSpec& spec : every_spec()) {
      const size_t rows = 32 * (1 + random.next() % 4), cols = 64 * (1 + random.next() % 3);
      const std::string what = cat(describe(spec), " [", rows, ", ", cols, "]");
      if (const auto obstacle = transposed_obstacle(layout, spec, {}, rows, cols, false)) {
        EXPECT_THAT(*obstacle, testing::AnyOf(HasSubstr("try "), HasSubstr("--skip"))) << what;
        ++refused;
        continue;
      }
      ++admitted;
      QuantizedMatrix q = sample(layout, spec, rows, cols, random.next());
      const Stored stored(layout, q, 32 * cols, {1, rows / 2});  // tiles of 32 rows
      QuantSpec expected = spec;
      expected.full_range = false;  // a matter of the scales' signs
      q.spec = expected;
      const TransposedWeight weight = stored.open(format_of(layout, spec));
      ASSERT_TRUE(same(weight.read_codes(0, rows), q)) << what;
      ASSERT_TRUE(same(weight.read_codes(3, 7), rows_of(q, 3, 7))) << what;
      size_t bytes = 0;
      for (const auto& [suffix, view] : stored.tensors) bytes += view.bytes.size();
      EXPECT_EQ(weight.bytes(), bytes);
      // Tiles change nothing.
      const Stored whole(layout, [&] {
        auto again = q;
        again.spec = spec;
        return again;
      }());
      for (const auto& [suffix, view] : stored.tensors)
        EXPECT_EQ(values<uint8_t>(view), values<uint8_t>(whole.tensors.at(suffix))) << suffix;
    }
  EXPECT_GT(admitted, 80u);
  EXPECT_GT(refused, 200u);
}

TEST(TransposedWeight, GptqWordsAreStreamsDownTheColumns) {
  QuantizedMatrix q = random_matrix({.bits = 4, .group = 32, .symmetric = false}, 32, 64, 3);
  for (uint8_t& zero : q.zeros) zero = std::max<uint8_t>(zero, 1);
  const Stored v1(TransposedLayout::kGptqV1, q), v2(TransposedLayout::kGptqV2, q);
  for (const size_t r : {0u, 5u, 31u})
    for (size_t c = 0; c < 64; ++c)
      EXPECT_EQ((v1.word("qweight", c / 8 * 32 + r) >> (4 * (c % 8))) & 15, q.codes[r * 64 + c]);
  for (size_t r = 0; r < 32; ++r)
    for (size_t g = 0; g < 2; ++g) {
      const auto field = [&](const Stored& stored) {
        return (stored.word("qzeros", g * 4 + r / 8) >> (4 * (r % 8))) & 15;
      };
      EXPECT_EQ(field(v1) + 1, q.zeros[r * 2 + g]);
      EXPECT_EQ(field(v2), q.zeros[r * 2 + g]);
      EXPECT_EQ(values<float>(v1.tensors.at("scales"))[g * 32 + r], q.scales[r * 2 + g]);
    }
  EXPECT_EQ(v1.word("g_idx", 31), 0u);
  EXPECT_EQ(v1.word("g_idx", 32), 1u);
}

TEST(TransposedWeight, SymmetricGptqV1HasSevensForZeros) {
  const Stored stored(TransposedLayout::kGptqV1, random_matrix({.bits = 4, .group = 32}, 32, 64, 3));
  EXPECT_EQ(stored.word("qzeros", 0), 0x77777777u);
}

// Three words hold 32 codes: code 10 spans the first two, code 21 the second two.
TEST(TransposedWeight, ThreeBitCodesSpanWords) {
  QuantizedMatrix q{.spec = {.bits = 3, .group = 32}, .rows = 32, .cols = 32};
  q.codes.assign(32 * 32, 0);
  q.scales.assign(32, 1.0f);
  q.codes[10] = 7, q.codes[21] = 7;
  const Stored stored(TransposedLayout::kGptqV1, q);
  EXPECT_EQ(stored.word("qweight", 0), 0xc0000000u);
  EXPECT_EQ(stored.word("qweight", 32), 0x80000001u);
  EXPECT_EQ(stored.word("qweight", 64), 0x00000003u);
}

TEST(TransposedWeight, AwqInterleavesEightRows) {
  QuantizedMatrix q{.spec = {.bits = 4, .group = 16, .symmetric = false}, .rows = 8, .cols = 16};
  q.codes.assign(8 * 16, 0);
  for (uint8_t r = 0; r < 8; ++r) q.codes[size_t{r} * 16] = r;
  q.scales.assign(8, 1.0f);
  q.zeros = {8, 9, 10, 11, 12, 13, 14, 15};
  const Stored stored(TransposedLayout::kAwq, q);
  EXPECT_EQ(stored.word("qweight", 0), 0x75316420u);
  EXPECT_EQ(stored.word("qweight", 1), 0u);
  EXPECT_EQ(stored.word("qzeros", 0), 0xfdb9eca8u);
}

TEST(TransposedWeight, GroupsOfColumnsRoundTripInGptq) {
  for (const bool symmetric : {true, false}) {
    QuantizedMatrix q = sample(TransposedLayout::kGptqV1, {.bits = 4, .group = 32, .symmetric = symmetric}, 64, 96, 13);
    for (uint32_t c = 0; c < 96; ++c) q.group_of.push_back(c % 3);
    const Stored stored(TransposedLayout::kGptqV1, q, 1, {40});
    const TransposedFormat format = format_of(TransposedLayout::kGptqV1, q.spec);
    EXPECT_TRUE(same(stored.open(format).read_codes(0, 64), q));
    EXPECT_TRUE(transposed_obstacle(TransposedLayout::kAwq, q.spec, {}, 64, 96, true));
  }
}

TEST(TransposedWeight, AutoRoundLeavesOutTheGroupIndex) {
  const QuantizedMatrix q = random_matrix({.bits = 4, .group = 32}, 32, 64, 3);
  Stored stored(TransposedLayout::kGptqV1, q);
  stored.tensors.erase("g_idx");
  EXPECT_TRUE(same(stored.open(format_of(TransposedLayout::kGptqV1, q.spec)).read_codes(0, 32), q));
}

// What a configuration calls symmetric is only so if its zero points agree.
TEST(TransposedWeight, ZeroPointsDecideWhatIsSymmetric) {
  QuantizedMatrix q = random_matrix({.bits = 4, .group = 32, .symmetric = false}, 32, 64, 3);
  std::fill(q.zeros.begin(), q.zeros.end(), uint8_t{8});
  for (const TransposedLayout layout : kLayouts) {
    const Stored even(layout, q);
    EXPECT_TRUE(even.open({layout, 4, 32, true}).spec().symmetric);
    EXPECT_FALSE(even.open({layout, 4, 32, false}).spec().symmetric);
    QuantizedMatrix odd = q;
    odd.zeros[17] = 7;
    EXPECT_TRUE(same(Stored(layout, odd).open({layout, 4, 32, true}).read_codes(0, 32), odd));
  }
}

TEST(TransposedWeight, VersionOneRaisesZeroPointsOfZero) {
  QuantizedMatrix q = random_matrix({.bits = 4, .group = 32, .symmetric = false}, 32, 64, 3);
  for (uint8_t& code : q.codes) code = std::min<uint8_t>(code, 14);
  q.zeros[3] = 0;  // row 1, group 1
  std::fill(q.scales.begin(), q.scales.end(), 0.5f);
  const auto read =
      Stored(TransposedLayout::kGptqV1, q).open({TransposedLayout::kGptqV1, 4, 32, false}).read_codes(0, 32);
  EXPECT_EQ(read.zeros[3], 1);
  EXPECT_EQ(values_of(read), values_of(q));
  q.codes[64 + 40] = 15;
  EXPECT_THAT(message_of([&] { Stored(TransposedLayout::kGptqV1, q); }),
              testing::AllOf(StartsWith("row 1, group 1"), HasSubstr("gptq:v2")));
  EXPECT_TRUE(
      same(Stored(TransposedLayout::kGptqV2, q).open({TransposedLayout::kGptqV2, 4, 32, false}).read_codes(0, 32), q));
}

// All-zero rows and groups, with the scale 0 or the code of 0, leave their neighbours alone.
TEST(TransposedWeight, AllZeroRowsSurvive) {
  for (const TransposedLayout layout : kLayouts)
    for (const bool symmetric : {true, false}) {
      QuantizedMatrix q = sample(layout, {.bits = 4, .group = 32, .symmetric = symmetric}, 32, 64, 5);
      std::fill_n(q.scales.begin(), 4, 0.0f);
      std::fill_n(q.codes.begin(), 64, uint8_t{8});
      EXPECT_TRUE(same(Stored(layout, q).open(format_of(layout, q.spec)).read_codes(0, 32), q));
    }
}

TEST(TransposedWeight, SlicesComeFromSeveralThreads) {
  const QuantizedMatrix q = random_matrix({.bits = 4, .group = 32}, 256, 64, 9);
  const Stored want(TransposedLayout::kAwq, q);
  TransposedEncoder encoder(TransposedLayout::kAwq, q.spec, 256, 64, false, 64 * 64);
  std::vector<std::byte> words(256 * 64 / 2);
  const auto sink = [&](size_t slot, size_t offset, std::span<const std::byte> bytes) {
    if (slot == 0) std::copy(bytes.begin(), bytes.end(), words.begin() + static_cast<ptrdiff_t>(offset));
  };
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (size_t r = 5 * t; r < 256; r += 20) encoder.write(r, rows_of(q, r, std::min<size_t>(r + 5, 256)), sink);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(std::equal(words.begin(), words.end(), want.tensors.at("qweight").bytes.begin()));
}

std::string complaint(const Stored& stored, const TransposedFormat& format) {
  return message_of([&] { stored.open(format); });
}

TEST(TransposedWeight, RefusesWhatContradictsItself) {
  for (const TransposedLayout layout : kLayouts) {
    const QuantizedMatrix q = random_matrix({.bits = 4, .group = 32}, 32, 64, 3);
    const Stored stored(layout, q);
    const TransposedFormat format{layout, 4, 32, true};
    EXPECT_EQ(complaint(stored, format), "");
    for (const auto& [suffix, view] : stored.tensors) {
      Stored damaged = stored;
      damaged.tensors.erase(suffix);
      if (suffix != "g_idx") {
        EXPECT_THAT(complaint(damaged, format), StartsWith("m." + suffix)) << suffix;
      }
      for (const size_t size : {size_t{0}, view.bytes.size() - 1}) {
        damaged.tensors[suffix] = view;
        const std::vector<std::byte> bytes(view.bytes.begin(), view.bytes.begin() + static_cast<ptrdiff_t>(size));
        damaged.tensors[suffix].bytes = bytes;
        EXPECT_THAT(complaint(damaged, format), StartsWith("m." + suffix)) << suffix;
      }
      damaged.tensors[suffix] = view;
      damaged.tensors[suffix].dtype = DType::kI64;
      EXPECT_THAT(complaint(damaged, format), StartsWith("m." + suffix)) << suffix;
      for (const Shape& shape :
           {Shape{}, Shape{0, 0}, Shape{1}, Shape{view.shape[0] + 1, 32}, Shape{size_t{1} << 62, 8}}) {
        damaged.tensors[suffix] = view;
        damaged.tensors[suffix].shape = shape;
        EXPECT_THAT(complaint(damaged, format), StartsWith("m.")) << suffix;
      }
    }
    EXPECT_THAT(complaint(stored, {layout, 4, 16, true}), HasSubstr("config.json and the tensor disagree"));
    EXPECT_THAT(complaint(stored, {layout, 3, 32, true}), StartsWith("m.qweight"));
  }
  Stored stored(TransposedLayout::kGptqV1, random_matrix({.bits = 4, .group = 32}, 32, 64, 3));
  std::vector<uint32_t> index(64, 2);
  stored.tensors["g_idx"].bytes = std::as_bytes(std::span(index));
  EXPECT_THAT(complaint(stored, {}), StartsWith("m."));
  EXPECT_THAT(complaint(stored, {TransposedLayout::kGptqV1, 4, 32, true}), HasSubstr("column 0 is in group 2 of 2"));
  Stored nan(TransposedLayout::kGptqV1, random_matrix({.bits = 4, .group = 32}, 32, 64, 3));
  std::vector<float> scales(64, 1.0f);
  scales[9] = std::numeric_limits<float>::infinity();
  nan.tensors["scales"].bytes = std::as_bytes(std::span(scales));
  EXPECT_THAT(complaint(nan, {TransposedLayout::kGptqV1, 4, 32, true}), StartsWith("m.scales: value 9"));
}

TEST(TransposedWeight, SlicesThatDoNotFitAreRefused) {
  const QuantizedMatrix q = random_matrix({.bits = 4, .group = 32}, 32, 64, 3);
  TransposedEncoder encoder(TransposedLayout::kGptqV1, q.spec, 32, 64, false);
  const auto ignore = [](size_t, size_t, std::span<const std::byte>) {};
  EXPECT_THAT(message_of([&] { encoder.write(1, q, ignore); }), HasSubstr("rows 1 to 33"));
  QuantizedMatrix grouped = q;
  grouped.group_of.assign(64, 0);
  EXPECT_THAT(message_of([&] { encoder.write(0, grouped, ignore); }), HasSubstr("groups of their own"));
}

}  // namespace
}  // namespace nibble
