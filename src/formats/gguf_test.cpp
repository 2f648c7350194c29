#include "formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "core/files.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "formats/ggml_type.h"
#include "formats/test_damage.h"
#include "formats/test_gguf.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Type = TestGguf::Type;

std::vector<uint8_t> ramp(size_t count) {
  std::vector<uint8_t> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<uint8_t>(i * 7 + 1);
  return out;
}

// Keeps the bytes alive together with the result.
std::shared_ptr<const Gguf> parse(const TestGguf& builder) {
  auto bytes = std::make_shared<const std::vector<std::byte>>(builder.build());
  return Gguf::parse(*bytes, bytes);
}

void parse_bytes_of(std::span<const std::byte> bytes) { Gguf::parse(bytes, nullptr); }

TestGguf small_model() {
  TestGguf out;
  out.key("general.architecture", "llama")
      .key("llama.block_count", Type::kU32, uint32_t{2})
      .list("tokenizer.ggml.tokens", std::vector<std::string>{"a", "", "bc"})
      .list("tokenizer.ggml.scores", Type::kF32, std::vector<float>{-1.5f, 0, 2})
      .tensor("token_embd.weight", {4, 3}, 0, ramp(48))
      .tensor("blk.0.attn_q.weight", {64, 2}, 3, ramp(80))
      .tensor("output_norm.weight", {5}, 30, ramp(10));
  return out;
}

TEST(Gguf, ReadsTensorsOutermostFirst) {
  const auto gguf = parse(small_model());
  EXPECT_EQ(gguf->version(), 3u);
  ASSERT_EQ(gguf->tensors().size(), 3u);
  const GgufTensor& embedding = gguf->tensors()[0];
  EXPECT_EQ(embedding.name, "token_embd.weight");
  EXPECT_EQ(embedding.view.dtype, DType::kF32);
  EXPECT_EQ(embedding.view.shape, (Shape{3, 4}));
  const GgufTensor& query = gguf->tensors()[1];
  EXPECT_EQ(query.view.dtype, DType::kQ4_1);
  EXPECT_EQ(query.view.shape, (Shape{2, 64}));
  ASSERT_EQ(query.view.bytes.size(), 80u);
  for (size_t i = 0; i < 80; ++i) ASSERT_EQ(query.view.bytes[i], static_cast<std::byte>(i * 7 + 1));
  EXPECT_EQ(gguf->tensors()[2].view.dtype, DType::kBF16);
  EXPECT_EQ(gguf->tensors()[2].view.bytes.size(), 10u);
}

TEST(Gguf, ReadsEveryValueType) {
  TestGguf file;
  file.key("u8", Type::kU8, uint8_t{200}).key("i8", Type::kI8, int8_t{-100}).key("u16", Type::kU16, uint16_t{60000});
  file.key("i16", Type::kI16, int16_t{-30000})
      .key("u32", Type::kU32, uint32_t{4000000000})
      .key("i32", Type::kI32, int32_t{-5});
  file.key("u64", Type::kU64, UINT64_MAX)
      .key("i64", Type::kI64, INT64_MIN)
      .key("f32", Type::kF32, 0.1f)
      .key("f64", Type::kF64, 0.1);
  file.key("yes", Type::kBool, uint8_t{1})
      .key("no", Type::kBool, uint8_t{0})
      .key("text", "caf\xc3\xa9")
      .key("none", "");
  file.list("[u8]", Type::kU8, std::vector<uint8_t>{0, 255}).list("[i8]", Type::kI8, std::vector<int8_t>{-128, 127});
  file.list("[u16]", Type::kU16, std::vector<uint16_t>{65535}).list("[i16]", Type::kI16, std::vector<int16_t>{-32768});
  file.list("[u32]", Type::kU32, std::vector<uint32_t>{UINT32_MAX})
      .list("[i32]", Type::kI32, std::vector<int32_t>{INT32_MIN});
  file.list("[u64]", Type::kU64, std::vector<uint64_t>{INT64_MAX})
      .list("[i64]", Type::kI64, std::vector<int64_t>{INT64_MIN, 1});
  file.list("[f32]", Type::kF32, std::vector<float>{0.5f}).list("[f64]", Type::kF64, std::vector<double>{0.1});
  file.list("[bool]", Type::kBool, std::vector<uint8_t>{1, 0, 1})
      .list("[text]", std::vector<std::string>{"x", "", "yz"});
  file.list("[]", Type::kI32, std::vector<int32_t>{});
  const auto gguf = parse(file);
  EXPECT_EQ(gguf->metadata().size(), 27u);
  EXPECT_EQ(gguf->find_unsigned("u8"), 200u);
  EXPECT_EQ(gguf->find_number("i8"), -100.0);
  EXPECT_EQ(gguf->find_unsigned("u16"), 60000u);
  EXPECT_EQ(gguf->find_number("i16"), -30000.0);
  EXPECT_EQ(gguf->find_unsigned("u32"), 4000000000u);
  EXPECT_EQ(gguf->find_number("i32"), -5.0);
  EXPECT_EQ(gguf->find_unsigned("u64"), UINT64_MAX);
  EXPECT_EQ(gguf->find_number("i64"), -0x1p63);
  EXPECT_EQ(gguf->find_number("f32"), static_cast<double>(0.1f));
  EXPECT_EQ(gguf->find_number("f64"), 0.1);
  EXPECT_EQ(gguf->find_bool("yes"), true);
  EXPECT_EQ(gguf->find_bool("no"), false);
  EXPECT_EQ(gguf->find_string("text"), "caf\xc3\xa9");
  EXPECT_EQ(gguf->find_string("none"), "");
  EXPECT_THAT(*gguf->find_integers("[u8]"), ElementsAre(0, 255));
  EXPECT_THAT(*gguf->find_integers("[i8]"), ElementsAre(-128, 127));
  EXPECT_THAT(*gguf->find_integers("[u16]"), ElementsAre(65535));
  EXPECT_THAT(*gguf->find_integers("[i16]"), ElementsAre(-32768));
  EXPECT_THAT(*gguf->find_integers("[u32]"), ElementsAre(UINT32_MAX));
  EXPECT_THAT(*gguf->find_integers("[i32]"), ElementsAre(INT32_MIN));
  EXPECT_THAT(*gguf->find_integers("[u64]"), ElementsAre(INT64_MAX));
  EXPECT_THAT(*gguf->find_integers("[i64]"), ElementsAre(INT64_MIN, 1));
  EXPECT_THAT(*gguf->find_numbers("[f32]"), ElementsAre(0.5));
  EXPECT_THAT(*gguf->find_numbers("[f64]"), ElementsAre(0.1));
  EXPECT_EQ(std::get<std::vector<bool>>(gguf->find("[bool]")->data), (std::vector<bool>{true, false, true}));
  EXPECT_THAT(*gguf->find_strings("[text]"), ElementsAre("x", "", "yz"));
  EXPECT_TRUE(gguf->find_integers("[]")->empty());
}

TEST(Gguf, TypedAccessNamesTheKeyAndWhatWasFound) {
  const auto gguf = parse(small_model().key("negative", Type::kI32, int32_t{-1}));
  EXPECT_EQ(gguf->find("absent"), nullptr);
  EXPECT_EQ(gguf->find_string("absent"), std::nullopt);
  EXPECT_EQ(gguf->find_unsigned("absent"), std::nullopt);
  EXPECT_EQ(gguf->find_numbers("absent"), nullptr);
  EXPECT_EQ(error_text([&] { gguf->find_string("llama.block_count"); }),
            "llama.block_count should be a string, found the number 2");
  EXPECT_EQ(error_text([&] { gguf->find_unsigned("general.architecture"); }),
            "general.architecture should be a non-negative integer, found the string 'llama'");
  EXPECT_THAT(error_text([&] { gguf->find_unsigned("negative"); }), HasSubstr("found the number -1"));
  EXPECT_THAT(error_text([&] { gguf->find_integers("tokenizer.ggml.tokens"); }),
              HasSubstr("found a list of 3 strings"));
  EXPECT_THAT(error_text([&] { gguf->find_strings("tokenizer.ggml.scores"); }), HasSubstr("found a list of 3 numbers"));
  EXPECT_EQ(error_kind([&] { gguf->find_bool("negative"); }), ErrorKind::kCorrupt);
}

TEST(Gguf, EveryElementTypeHasItsSize) {
  for (uint32_t number = 0; number < 64; ++number) {
    const auto dtype = find_ggml_type(number);
    TestGguf file;
    file.tensor("t", {512, 3}, number, ramp(dtype ? byte_size(*dtype, 1536) : 0));
    if (dtype) {
      EXPECT_EQ(ggml_type_number(*dtype), number);
      EXPECT_EQ(parse(file)->tensors()[0].view.dtype, *dtype);
      EXPECT_THAT(ggml_type_name(number), HasSubstr(std::string(info(*dtype).name)));
    } else {
      EXPECT_THAT(error_text([&] { parse(file); }), HasSubstr("tensor 't': element type " + ggml_type_name(number)));
      EXPECT_EQ(error_kind([&] { parse(file); }), ErrorKind::kUnsupported);
    }
  }
  EXPECT_EQ(find_ggml_type(3), DType::kQ4_1);
  EXPECT_EQ(find_ggml_type(23), DType::kIQ4_XS);
  EXPECT_EQ(find_ggml_type(30), DType::kBF16);
  EXPECT_EQ(ggml_type_name(16), "IQ2_XXS (type 16)");
  EXPECT_EQ(ggml_type_number(DType::kF8E4M3), std::nullopt);
}

TEST(Gguf, ReadsVersion2AndOtherAlignments) {
  TestGguf file = small_model();
  file.version = 2;
  EXPECT_EQ(parse(file)->version(), 2u);

  TestGguf wide;
  wide.alignment = 128;
  wide.key("general.alignment", Type::kU32, uint32_t{128}).tensor("a", {3}, 24, ramp(3)).tensor("b", {5}, 24, ramp(5));
  const auto gguf = parse(wide);
  EXPECT_EQ(gguf->tensors()[1].view.bytes.data() - gguf->tensors()[0].view.bytes.data(), 128);

  for (const uint32_t alignment : {0u, 1u, 4u, 24u, 33u}) {
    TestGguf bad;
    bad.key("general.alignment", Type::kU32, alignment).tensor("a", {3}, 24, ramp(3));
    EXPECT_THAT(error_text([&] { parse(bad); }), HasSubstr("general.alignment is"));
  }
}

TEST(Gguf, FilesWithoutTensorsOrFinalPadding) {
  EXPECT_TRUE(parse(TestGguf().key("a", "b"))->tensors().empty());
  TestGguf file = small_model();
  file.pad_end = false;
  EXPECT_EQ(parse(file)->tensors()[2].view.bytes.size(), 10u);
  TestGguf scalar;
  scalar.tensor("scalar", {}, 0, ramp(4)).tensor("nothing", {0, 7}, 0, {}).tensor("x", {1}, 0, ramp(4));
  EXPECT_EQ(parse(scalar)->tensors()[0].view.shape, Shape{});
  EXPECT_EQ(parse(scalar)->tensors()[1].view.shape, (Shape{7, 0}));
}

TEST(Gguf, TensorsMayLieInAnyOrder) {
  TestGguf file;
  file.tensor_at("second", {4}, 0, 32, ramp(16)).tensor_at("first", {4}, 0, 0, ramp(16));
  const auto gguf = parse(file);
  EXPECT_EQ(gguf->tensors()[0].name, "second");  // the order of the header is kept
  EXPECT_EQ(gguf->tensors()[0].view.bytes.data() - gguf->tensors()[1].view.bytes.data(), 32);
}

TEST(Gguf, DamagedHeadersAreRefusedWithTheReason) {
  const auto expect = [](const TestGguf& file, const char* text, ErrorKind kind = ErrorKind::kCorrupt) {
    EXPECT_THAT(error_text([&] { parse(file); }), HasSubstr(text));
    EXPECT_EQ(error_kind([&] { parse(file); }), kind) << text;
  };
  const auto changed = [](auto&& change) {
    TestGguf file = small_model();
    change(file);
    return file;
  };
  expect(changed([](TestGguf& f) { f.magic = 0x12345678; }), "does not begin with 'GGUF'");
  expect(changed([](TestGguf& f) { f.version = 1; }), "GGUF version 1 is not supported", ErrorKind::kUnsupported);
  expect(changed([](TestGguf& f) { f.version = 0x03000000; }), "big-endian", ErrorKind::kUnsupported);
  expect(changed([](TestGguf& f) { f.extra_tensors = uint64_t{1} << 60; }), "number of tensors at offset 8");
  expect(changed([](TestGguf& f) { f.extra_keys = uint64_t{1} << 60; }), "number of metadata keys at offset 16");
  expect(small_model().key("llama.block_count", Type::kU32, uint32_t{3}), "has the key llama.block_count twice");
  expect(small_model().tensor("output_norm.weight", {4}, 0, ramp(16)), "two tensors are called 'output_norm.weight'");
  expect(small_model().key("", "x"), "metadata key at offset");
  expect(small_model().key("bad\nkey", "x"), "'bad\\x0akey' and not printable ASCII");
  expect(small_model().tensor("", {4}, 0, ramp(16)), "tensor name at offset");
  expect(small_model().tensor("\xff", {4}, 0, ramp(16)), "tensor name at offset");
  expect(small_model().tensor(std::string(65, 'x'), {4}, 0, ramp(16)), "not 1 to 64 printable bytes");
  expect(small_model().key("x", static_cast<Type>(13), uint32_t{0}), "x: the value type at offset");
  expect(small_model().key("x", Type::kBool, uint8_t{2}), "x: the boolean at offset");
  expect(small_model().list("x", Type::kBool, std::vector<uint8_t>{0, 3}), "is 3 and not 0 or 1");
  expect(small_model().list("x", Type::kU64, std::vector<uint64_t>{UINT64_MAX}), "x: a list element is out of range");
  expect(small_model().empty_list("x", TestGguf::kArray, 1), "x: lists of lists", ErrorKind::kUnsupported);
  expect(small_model().empty_list("x", 99, 0), "x: the element type is 99");
  expect(small_model().empty_list("x", TestGguf::kU8, uint64_t{1} << 40), "x: a list's length at offset");
  expect(small_model().empty_list("x", TestGguf::kString, UINT64_MAX / 8), "x: a list's length at offset");
  expect(small_model().key("general.alignment", "32"), "general.alignment should be a non-negative integer");
  expect(small_model().tensor("t", {1, 1, 1, 1, 1}, 0, ramp(4)), "'t': it has 5 dimensions");
  expect(small_model().tensor("t", {uint64_t{1} << 40, uint64_t{1} << 40}, 0, {}), "'t': element count is too large");
  expect(small_model().tensor("t", {UINT64_MAX / 4}, 0, {}), "'t': its 18446744073709551612 bytes at file offset");
  expect(small_model().tensor("t", {33}, 2, ramp(36)), "rows of 33 elements are no multiple of Q4_0's block of 32");
  expect(small_model().tensor_at("t", {4}, 0, 4, ramp(16)), "data offset 4 is no multiple of the alignment 32");
  expect(small_model().tensor_at("t", {4}, 0, 0, ramp(16)), "inside another tensor's");
  expect(small_model().tensor_at("t", {4}, 0, 640, ramp(16)), "after a gap");
  expect(small_model().tensor("t", {400}, 0, ramp(16)), "the file is truncated: download it again");
  expect(small_model().tensor("t", {4}, 0, ramp(100)), "the last tensor ends at file offset");
}

TEST(Gguf, TooManyListElementsAreRefusedBeforeTheyAreRead) {
  TestGguf file;
  file.list("x", Type::kU8, std::vector<uint8_t>((size_t{1} << 24) + 1));
  EXPECT_THAT(error_text([&] { parse(file); }), HasSubstr("the limit is 16777216"));
}

TEST(Gguf, EveryTruncationIsRefused) {
  TestGguf file = small_model();
  file.list("flags", Type::kBool, std::vector<uint8_t>{1, 0}).key("last", Type::kF64, 1.0);
  file.pad_end = false;
  const auto bytes = file.build();
  ASSERT_TRUE(accepted(parse_bytes_of, bytes));
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(accepted(parse_bytes_of, std::span(bytes).first(size))) << size;
}

TEST(Gguf, BytesBehindTheLastTensorAreRefused) {
  auto bytes = small_model().build();
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(accepted(parse_bytes_of, bytes));
}

// A flip in a name, a text or a plain number makes another valid file. Nothing that gives the file its structure may
// pass.
TEST(Gguf, EveryBitFlipOfTheStructureIsRefused) {
  TestGguf file;
  file.tensor("t", {4, 8}, 0, ramp(128)).tensor("u", {96}, 24, ramp(96));
  const auto bytes = file.build();
  constexpr size_t kName1 = 32, kName2 = 32 + 1 + 4 + 16 + 12 + 8, kInfos = kName2 + 1 + 4 + 8 + 12;
  ASSERT_EQ(static_cast<char>(bytes[kName2]), 'u');
  for (size_t i = 0; i < kInfos; ++i)
    for (int bit = 0; bit < 8; ++bit) {
      if (i == kName1 || i == kName2) continue;
      auto damaged = bytes;
      damaged[i] ^= std::byte{static_cast<unsigned char>(1 << bit)};
      EXPECT_EQ(accepted(parse_bytes_of, damaged), i == 4 && bit == 0)
          << "bit " << bit << " of byte " << i;  // version 2
    }
}

TEST(Gguf, BitFlipsNeverCrash) {
  const auto bytes = small_model().build();
  const size_t count = accepted_bit_flips(parse_bytes_of, bytes);
  EXPECT_GE(count, (48u + 80 + 10) * 8);  // the data is free
  EXPECT_LT(count, bytes.size() * 8);
}

// tests/data/make_small_gguf.py wrote it with the gguf package.
TEST(Gguf, ReadsWhatTheFormatsOwnPackageWrote) {
  const auto gguf = Gguf::open(NIBBLE_TEST_DATA "/small.gguf");
  EXPECT_EQ(gguf->find_string("general.architecture"), "llama");
  EXPECT_EQ(gguf->find_unsigned("llama.block_count"), 1u);
  EXPECT_EQ(gguf->find_number("llama.rope.freq_base"), 10000.0);
  EXPECT_EQ(gguf->find_bool("tokenizer.ggml.add_bos_token"), true);
  EXPECT_THAT(*gguf->find_strings("tokenizer.ggml.tokens"), ElementsAre("<s>", "a", "\xc3\xa9"));
  EXPECT_THAT(*gguf->find_numbers("tokenizer.ggml.scores"), ElementsAre(0, -1, -2.5));
  EXPECT_THAT(*gguf->find_integers("tokenizer.ggml.token_type"), ElementsAre(3, 1, 1));
  std::vector<std::string> found;
  for (const GgufTensor& tensor : gguf->tensors())
    found.push_back(cat(tensor.name, " ", info(tensor.view.dtype).name, " ", tensor.view.shape.size(), " ",
                        tensor.view.bytes.size()));
  EXPECT_THAT(found, ElementsAre("token_embd.weight F32 2 512", "half.weight F16 2 256", "q4_0.weight Q4_0 2 72",
                                 "q8_0.weight Q8_0 2 136", "norm.weight F32 1 20"));
  EXPECT_EQ(gguf->tensors()[0].view.shape, (Shape{2, 64}));
  float value = 0;
  std::memcpy(&value, gguf->tensors()[0].view.bytes.data() + 65 * sizeof value, sizeof value);
  EXPECT_EQ(value, 65.0f / 16 - 4);
}

TEST(Gguf, FilesAreNamedInErrors) {
  const TestFolder folder;
  const auto write = [&](const char* name, std::string_view text) { write_text_file(folder / name, text); };
  write("empty.gguf", "");
  write("pointer.gguf", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  EXPECT_THAT(error_text([&] { Gguf::open(folder / "empty.gguf"); }), HasSubstr("empty.gguf: the file's magic number"));
  EXPECT_THAT(error_text([&] { Gguf::open(folder / "pointer.gguf"); }), HasSubstr("git lfs pull"));
  EXPECT_EQ(error_kind([&] { Gguf::open(folder / "none.gguf"); }), ErrorKind::kIo);
  EXPECT_EQ(error_kind([&] { Gguf::open(folder.path()); }), ErrorKind::kIo);
}

// Views must stay valid when only a tensor's owner is kept.
TEST(Gguf, TensorsKeepTheMappingAlive) {
  const TestFolder folder;
  const auto bytes = small_model().build();
  write_text_file(folder / "m.gguf", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  const TensorView view = Gguf::open(folder / "m.gguf")->tensors()[1].view;
  EXPECT_EQ(view.bytes[79], static_cast<std::byte>(ramp(80).back()));
}

}  // namespace
}  // namespace nibble
