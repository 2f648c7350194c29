#include "quant/compressed_tensors.h"

#include <gmock/gmock.h>

#include <cstring>
#include <limits>
#include <map>

#include "core/half.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;
using namespace testing_support;

constexpr ActivationSpec kInt8Inputs = {.mode = ActivationSpec::Mode::kDynamicPerToken};
constexpr ActivationSpec kFP8Inputs = {.mode = ActivationSpec::Mode::kDynamicPerToken, .grid = Grid::kFP8};

// One encoded weight in memory, each tensor in a buffer of exactly its size.
struct Stored {
  std::map<std::string, TensorView, std::less<>> tensors;

  Stored(const QuantizedMatrix& q, const ActivationSpec& activations, std::vector<size_t> cuts = {}) {
    CompressedEncoder encoder(q.spec, activations, q.rows, q.cols, !q.group_of.empty());
    std::vector<std::shared_ptr<std::vector<std::byte>>> buffers;
    std::vector<std::vector<int>> writes;
    for (const CompressedSlot& slot : encoder.slots()) {
      const size_t size = byte_size(slot.dtype, element_count(slot.shape));
      buffers.push_back(std::make_shared<std::vector<std::byte>>(size));
      writes.emplace_back(size);
      tensors[std::string(slot.suffix)] = {slot.dtype, slot.shape, *buffers.back(), buffers.back()};
    }
    const CompressedEncoder::Sink sink = [&](size_t slot, size_t offset, std::span<const std::byte> bytes) {
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
    size_t total = 0;
    for (const auto& slot : writes) {
      total += slot.size();
      for (int count : slot) EXPECT_EQ(count, 1) << "every byte is written once";
    }
    EXPECT_EQ(total, compressed_bytes(q.spec, activations, q.rows, q.cols, !q.group_of.empty()));
  }

  CompressedWeight::Find find() const {
    return [this](std::string_view suffix) -> const TensorView* {
      const auto found = tensors.find(suffix);
      return found == tensors.end() ? nullptr : &found->second;
    };
  }
  CompressedWeight open(QuantSpec spec) const {
    spec.scale_dtype = DType::kF32;  // a config does not say it
    return CompressedWeight::open("m", spec, find());
  }
};

void expect_round_trip(const QuantizedMatrix& q, const ActivationSpec& activations) {
  const std::string what = cat(describe(q.spec), " ", compressed_format(q.spec, activations));
  const Stored stored(q, activations, {1, 33});
  ASSERT_TRUE(CompressedWeight::present(stored.find()));
  const CompressedWeight weight = stored.open(q.spec);
  EXPECT_EQ(weight.bytes(), compressed_bytes(q.spec, activations, q.rows, q.cols, !q.group_of.empty())) << what;
  EXPECT_EQ(weight.rows(), q.rows);
  EXPECT_EQ(weight.cols(), q.cols);
  ASSERT_TRUE(same(weight.read_codes(0, q.rows), q)) << what;
  ASSERT_TRUE(same(weight.read_codes(30, 37), rows_of(q, 30, 37))) << what;
  const PackedMatrix packed = weight.packed();
  ASSERT_TRUE(same(unpack_rows(packed, 0, q.rows), q)) << what;
  std::vector<float> row(q.cols);
  packed.load_row(q.rows - 1, 0, q.cols, row.data());
  const std::vector<float> want = values_of(q);
  EXPECT_TRUE(std::equal(row.begin(), row.end(), want.end() - static_cast<ptrdiff_t>(q.cols))) << what;
}

TEST(CompressedTensors, EverySpecRoundTrips) {
  for (const QuantSpec& spec : every_spec()) {
    const QuantizedMatrix q = random_matrix(spec, 41, 77, 13);
    expect_round_trip(q, {});
    expect_round_trip(q, spec.grid == Grid::kFP8 ? kFP8Inputs : kInt8Inputs);
  }
}

TEST(CompressedTensors, StaticInputsRoundTrip) {
  for (const bool symmetric : {true, false}) {
    const ActivationSpec inputs{
        .mode = ActivationSpec::Mode::kStatic, .symmetric = symmetric, .scale = 0.0625f, .zero = symmetric ? 0 : 131};
    const QuantizedMatrix q = random_matrix({.bits = 8, .group = 0}, 5, 40, 13);
    Stored stored(q, inputs);
    EXPECT_EQ(stored.tensors.contains("input_zero_point"), !symmetric);
    size_t bytes = stored.open(q.spec).bytes();
    ActivationSpec read = inputs;
    read.scale = 0, read.zero = 0;
    EXPECT_EQ(CompressedWeight::inputs("m", read, stored.find(), bytes), inputs);
    EXPECT_EQ(bytes, compressed_bytes(q.spec, inputs, 5, 40));
    const auto fault = [&] { return message_of([&] { CompressedWeight::inputs("m", read, stored.find(), bytes); }); };
    if (!symmetric) {
      stored.tensors.erase("input_zero_point");
      EXPECT_THAT(fault(), StartsWith("m.input_zero_point: is missing"));
    }
    const float nothing = 0;
    stored.tensors["input_scale"].bytes = std::as_bytes(std::span(&nothing, 1));
    EXPECT_THAT(fault(), StartsWith("m.input_scale: is 0"));
    stored.tensors.erase("input_scale");
    EXPECT_THAT(fault(), StartsWith("m.input_scale: is missing"));
  }
}

TEST(CompressedTensors, GroupsOfColumnsRoundTrip) {
  QuantizedMatrix q = random_matrix({.bits = 3, .group = 16, .symmetric = false}, 41, 40, 13);
  for (uint32_t c = 0; c < 40; ++c) q.group_of.push_back(c % 3);
  expect_round_trip(q, {});
  // An index that says nothing new is dropped.
  for (uint32_t c = 0; c < 40; ++c) q.group_of[c] = c / 16;
  EXPECT_TRUE(Stored(q, {}).open(q.spec).read_codes(0, 1).group_of.empty());
}

TEST(CompressedTensors, PackedCodesAreTheGoldenStreams) {
  const auto file = golden("quant_golden.safetensors");
  for (int bits = 1; bits <= 8; ++bits) {
    const TensorView& codes = file.at(cat("stream.", bits, ".codes"));
    const TensorView& packed = file.at(cat("stream.", bits, ".packed"));
    QuantizedMatrix q{.spec = {.bits = bits, .group = 0}, .rows = codes.shape[0], .cols = codes.shape[1]};
    q.codes = values<uint8_t>(codes);
    q.scales.assign(q.rows, 1.0f);
    const Stored stored(q, {});
    EXPECT_EQ(stored.tensors.at("weight_packed").shape, packed.shape);
    EXPECT_EQ(values<int32_t>(stored.tensors.at("weight_packed")), values<int32_t>(packed)) << bits;
  }
}

TEST(CompressedTensors, ZeroPointsArePackedAlongTheRows) {
  // Column g of the packed zero points, read as one stream, is the golden stream of that column's zero points.
  const auto file = golden("quant_golden.safetensors");
  const TensorView& zeros = file.at("stream.3.codes");
  const size_t groups = zeros.shape[0], rows = zeros.shape[1];
  const auto by_group = values<uint8_t>(zeros);
  QuantizedMatrix q = random_matrix({.bits = 3, .group = 4, .symmetric = false}, rows, 8, 1);
  for (size_t r = 0; r < rows; ++r)
    for (size_t g = 0; g < groups; ++g) q.zeros[r * groups + g] = by_group[g * rows + r];
  const Stored stored(q, {});
  const auto packed = values<int32_t>(stored.tensors.at("weight_zero_point"));
  const auto want = values<int32_t>(file.at("stream.3.packed"));
  const size_t words = want.size() / groups;
  EXPECT_EQ(stored.tensors.at("weight_zero_point").shape, (Shape{words, groups}));
  for (size_t i = 0; i < words; ++i)
    for (size_t g = 0; g < groups; ++g) EXPECT_EQ(packed[i * groups + g], want[g * words + i]);
}

TEST(CompressedTensors, HandWorkedInt8) {
  QuantizedMatrix q{
      .spec = {.bits = 8, .group = 0, .symmetric = false, .scale_dtype = DType::kBF16}, .rows = 2, .cols = 3};
  q.codes = {0, 128, 255, 127, 129, 1};
  q.scales = {0.5f, 2.0f};
  q.zeros = {0, 130};
  const Stored stored(q, kInt8Inputs);
  EXPECT_EQ(stored.tensors.size(), 3u);
  EXPECT_THAT(values<int8_t>(stored.tensors.at("weight")), ElementsAre(-128, 0, 127, -1, 1, -127));
  EXPECT_THAT(values<uint16_t>(stored.tensors.at("weight_scale")), ElementsAre(f32_to_bf16(0.5f), f32_to_bf16(2.0f)));
  EXPECT_EQ(stored.tensors.at("weight_scale").shape, (Shape{2, 1}));
  EXPECT_THAT(values<int8_t>(stored.tensors.at("weight_zero_point")), ElementsAre(-128, 2));
}

TEST(CompressedTensors, FormatsFollowTheSchema) {
  EXPECT_EQ(compressed_format({.bits = 4}, {}), "pack-quantized");
  EXPECT_EQ(compressed_format({.bits = 8}, {}), "pack-quantized");
  EXPECT_EQ(compressed_format({.bits = 4}, kInt8Inputs), "pack-quantized");
  EXPECT_EQ(compressed_format({.bits = 8}, kInt8Inputs), "int-quantized");
  EXPECT_EQ(compressed_format({.bits = 8, .grid = Grid::kFP8}, kFP8Inputs), "float-quantized");
  EXPECT_EQ(compressed_format({.bits = 8, .grid = Grid::kFP8}, {}), "naive-quantized");
  EXPECT_EQ(compressed_format({.bits = 4, .grid = Grid::kNF4}, {}), "pack-quantized");
}

TEST(CompressedTensors, NamesWhatTheSchemaCannotSay) {
  EXPECT_EQ(schema_obstacle({.bits = 4, .group = 64}, {}, 576), std::nullopt);
  EXPECT_EQ(schema_obstacle({.bits = 3, .group = 0, .symmetric = false}, {}, 577), std::nullopt);
  EXPECT_EQ(schema_obstacle({.bits = 8, .group = 0, .per_tensor = true, .grid = Grid::kFP8}, kFP8Inputs, 5),
            std::nullopt);
  EXPECT_EQ(schema_obstacle({.bits = 1, .group = 0, .symmetric = false}, {}, 5), std::nullopt);
  EXPECT_THAT(schema_obstacle({.bits = 4, .group = 128}, {}, 576).value(), HasSubstr("does not divide"));
  EXPECT_THAT(schema_obstacle({.bits = 4, .group = 64, .grid = Grid::kNF4}, {}, 64).value(), HasSubstr("nf4"));
  EXPECT_THAT(schema_obstacle({.bits = 4, .group = 32, .symmetric = false, .mins = true}, {}, 64).value(),
              HasSubstr("mins"));
  EXPECT_THAT(schema_obstacle({.bits = 1, .group = 32}, {}, 64).value(), HasSubstr("1-bit"));
}

TEST(CompressedTensors, RefusesSlicesThatDoNotFit) {
  const QuantSpec spec{.bits = 4, .group = 0, .per_tensor = true};
  const CompressedEncoder::Sink sink = [](size_t, size_t, std::span<const std::byte>) {};
  CompressedEncoder encoder(spec, {}, 4, 8);
  EXPECT_THROW(encoder.write(0, random_matrix({.bits = 3}, 4, 8, 1), sink), Error);
  EXPECT_THROW(encoder.write(0, random_matrix(spec, 4, 9, 1), sink), Error);
  EXPECT_THROW(encoder.write(2, random_matrix(spec, 4, 8, 1), sink), Error);
  QuantizedMatrix q = random_matrix(spec, 2, 8, 1);
  encoder.write(0, q, sink);
  q.scales[0] += 1;
  encoder.write(2, q, sink);
  EXPECT_THAT(message_of([&] { encoder.finish(sink); }), HasSubstr("disagree"));
}

// Opening and reading everything; the message of whatever is thrown.
std::string complaint(const Stored& stored, const QuantSpec& spec) {
  return message_of([&] {
    const CompressedWeight weight = stored.open(spec);
    weight.read_codes(0, weight.rows());
    weight.packed();
  });
}

TEST(CompressedTensors, RefusesEachDamagedTensorByName) {
  std::vector<std::pair<QuantizedMatrix, ActivationSpec>> cases = {
      {random_matrix({.bits = 3, .group = 16, .symmetric = false}, 5, 40, 1), {}},
      {random_matrix({.bits = 4, .group = 16, .symmetric = false, .scale_dtype = DType::kF16, .mins = true}, 5, 40, 1),
       {}},
      {random_matrix({.bits = 8, .group = 16, .symmetric = false}, 5, 40, 1), kInt8Inputs},
      {random_matrix({.bits = 8, .group = 0, .per_tensor = true, .grid = Grid::kFP8}, 5, 40, 1), {}},
      {random_matrix({.bits = 4, .group = 0, .per_tensor = true, .symmetric = false}, 5, 40, 1), {}},
  };
  cases.push_back(cases[0]);
  for (uint32_t c = 0; c < 40; ++c) cases.back().first.group_of.push_back(c % 3);

  for (const auto& [q, activations] : cases) {
    const Stored good(q, activations);
    EXPECT_EQ(complaint(good, q.spec), "");
    for (const auto& [suffix, view] : good.tensors) {
      const std::string prefix = cat("m.", suffix, ": ");
      Stored bad = good;
      if (suffix != "weight_g_idx") {  // optional
        bad.tensors.erase(suffix);
        EXPECT_THAT(complaint(bad, q.spec), StartsWith(suffix == "weight_packed" ? "m.weight: " : prefix));
      }
      bad = good;
      bad.tensors[suffix].dtype = DType::kI16;
      EXPECT_THAT(complaint(bad, q.spec), StartsWith(prefix));
      for (size_t axis = 0; axis < view.shape.size(); ++axis) {
        bad = good;
        ++bad.tensors[suffix].shape[axis];
        EXPECT_THAT(complaint(bad, q.spec), testing::StartsWith("m.weight")) << suffix;
        bad = good;
        --bad.tensors[suffix].shape[axis];
        EXPECT_THAT(complaint(bad, q.spec), testing::StartsWith("m.weight")) << suffix;
      }
      for (size_t size = 0; size < view.bytes.size(); ++size) {
        const std::vector<std::byte> prefix_bytes(view.bytes.begin(),
                                                  view.bytes.begin() + static_cast<ptrdiff_t>(size));
        bad = good;
        bad.tensors[suffix].bytes = prefix_bytes;
        ASSERT_THAT(complaint(bad, q.spec), StartsWith(prefix)) << size << " bytes";
      }
    }
  }
}

// A stored weight with one element of one tensor overwritten.
template <class T>
std::string complaint_after(const QuantizedMatrix& q, const ActivationSpec& activations, const std::string& suffix,
                            size_t index, T value) {
  Stored stored(q, activations);
  std::vector<std::byte> bytes(stored.tensors[suffix].bytes.begin(), stored.tensors[suffix].bytes.end());
  std::memcpy(bytes.data() + index * sizeof(T), &value, sizeof(T));
  stored.tensors[suffix].bytes = bytes;
  return complaint(stored, q.spec);
}

TEST(CompressedTensors, RefusesDamagedValues) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  QuantizedMatrix q = random_matrix({.bits = 3, .group = 16, .symmetric = false}, 5, 40, 1);
  for (int64_t extent : {int64_t{0}, int64_t{-1}, int64_t{1} << 62, std::numeric_limits<int64_t>::max()}) {
    EXPECT_THAT(complaint_after(q, {}, "weight_shape", 0, extent), StartsWith("m.weight_"));
    EXPECT_THAT(complaint_after(q, {}, "weight_shape", 1, extent), testing::Not(testing::IsEmpty()));
  }
  EXPECT_THAT(complaint_after(q, {}, "weight_scale", 3, nan), StartsWith("m.weight_scale: value 3"));
  for (uint32_t c = 0; c < 40; ++c) q.group_of.push_back(c % 3);
  EXPECT_THAT(complaint_after(q, {}, "weight_g_idx", 7, int32_t{3}), StartsWith("m.weight_g_idx: column 7"));
  EXPECT_THAT(complaint_after(q, {}, "weight_g_idx", 7, int32_t{-1}), StartsWith("m.weight_g_idx: column 7"));

  const QuantizedMatrix mins = random_matrix({.bits = 4, .group = 16, .symmetric = false, .mins = true}, 5, 40, 1);
  EXPECT_THAT(complaint_after(mins, {}, "weight_min", 1, nan), StartsWith("m.weight_min: value 1"));
  const QuantizedMatrix tensor =
      random_matrix({.bits = 4, .group = 0, .per_tensor = true, .symmetric = false}, 5, 40, 1);
  EXPECT_THAT(complaint_after(tensor, {}, "weight_zero_point", 0, int8_t{8}),
              StartsWith("m.weight_zero_point: value 0"));
}

TEST(CompressedTensors, RefusesInt8CodesOutsideOfTheirBits) {
  const std::vector<int8_t> codes = {-8, 7, 0, 8};
  const std::vector<float> scale = {1};
  std::map<std::string, TensorView, std::less<>> tensors = {
      {"weight", {DType::kI8, {1, 4}, std::as_bytes(std::span(codes)), nullptr}},
      {"weight_scale", {DType::kF32, {1}, std::as_bytes(std::span(scale)), nullptr}}};
  const auto find = [&](std::string_view suffix) -> const TensorView* {
    const auto found = tensors.find(suffix);
    return found == tensors.end() ? nullptr : &found->second;
  };
  const CompressedWeight weight = CompressedWeight::open("m", {.bits = 4, .group = 0}, find);
  EXPECT_THAT(message_of([&] { weight.read_codes(0, 1); }), StartsWith("m.weight: holds codes outside of 4 bits"));
}

TEST(CompressedTensors, RefusesTheOldPaddedPacking) {
  // 64 codes of 3 bits: 6 words dense, 7 with ten codes to a word.
  Stored stored(random_matrix({.bits = 3, .group = 0}, 1, 64, 1), {});
  const std::vector<std::byte> words(7 * 4);
  stored.tensors["weight_packed"] = {DType::kI32, {1, 7}, words, nullptr};
  EXPECT_THAT(complaint(stored, {.bits = 3, .group = 0}), HasSubstr("padded"));
}

TEST(CompressedTensors, PlainWeightsAreNotPresent) {
  const TensorView plain{DType::kF16, {1, 1}, {}, nullptr};
  EXPECT_FALSE(
      CompressedWeight::present([&](std::string_view suffix) { return suffix == "weight" ? &plain : nullptr; }));
  EXPECT_FALSE(CompressedWeight::present([](std::string_view) -> const TensorView* { return nullptr; }));
}

}  // namespace
}  // namespace nibble
