#include "formats/gguf_writer.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "formats/gguf.h"

namespace nibble {
namespace {

TEST(GgufWriter, WhatIsWrittenIsReadAgain) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.gguf";
  GgufMetadata metadata;
  metadata.set_u32("a.u32", 7);
  metadata.set_u64("a.u64", uint64_t{1} << 40);
  metadata.set_f32("a.f32", 0.5f);
  metadata.set_bool("a.bool", true);
  metadata.set_string("a.string", "replaced");
  metadata.set_string("a.string", "text");
  const std::vector<std::string> strings = {"x", "", "yz"};
  metadata.set_strings("a.strings", strings);
  const std::vector<int32_t> integers = {-1, 2};
  metadata.set_i32s("a.integers", integers);
  const std::vector<float> floats = {1.5f};
  metadata.set_f32s("a.floats", floats);
  EXPECT_TRUE(metadata.contains("a.u32"));
  EXPECT_FALSE(metadata.contains("b"));

  std::vector<std::byte> blocks(2 * 34), values(12);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<std::byte>(i);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::byte>(200 - i);
  GgufWriter writer(path, metadata, {{"q", DType::kQ8_0, {2, 32}}, {"v", DType::kF32, {3}}});
  EXPECT_EQ(writer.data_bytes(), 80u);
  writer.write(1, 0, values);
  writer.write(0, 34, std::span(blocks).subspan(34));
  EXPECT_THROW(writer.finish(), Error);
  writer.write(0, 0, std::span(blocks).first(34));
  writer.finish();

  const auto gguf = Gguf::open(path);
  EXPECT_EQ(gguf->version(), 3u);
  EXPECT_EQ(gguf->find_unsigned("a.u32"), 7u);
  EXPECT_EQ(gguf->find_unsigned("a.u64"), uint64_t{1} << 40);
  EXPECT_EQ(gguf->find_number("a.f32"), 0.5);
  EXPECT_EQ(gguf->find_bool("a.bool"), true);
  EXPECT_EQ(gguf->find_string("a.string"), "text");
  EXPECT_THAT(*gguf->find_strings("a.strings"), testing::ElementsAre("x", "", "yz"));
  EXPECT_THAT(*gguf->find_integers("a.integers"), testing::ElementsAre(-1, 2));
  EXPECT_THAT(*gguf->find_numbers("a.floats"), testing::ElementsAre(1.5));
  ASSERT_EQ(gguf->tensors().size(), 2u);
  EXPECT_EQ(gguf->tensors()[0].view.shape, (Shape{2, 32}));
  EXPECT_THAT(gguf->tensors()[0].view.bytes, testing::ElementsAreArray(blocks));
  EXPECT_THAT(gguf->tensors()[1].view.bytes, testing::ElementsAreArray(values));

  // Stored values move as they are.
  GgufMetadata copy;
  for (const auto& [key, value] : gguf->metadata()) copy.set_stored(key, value.stored);
  GgufWriter again(folder.path() / "b.gguf", copy, {});
  again.finish();
  const auto other = Gguf::open(folder.path() / "b.gguf");
  ASSERT_EQ(other->metadata().size(), gguf->metadata().size());
  for (const auto& [key, value] : gguf->metadata()) EXPECT_EQ(other->find(key)->data, value.data) << key;
}

TEST(GgufWriter, RefusesWhatTheFormatCannotHold) {
  const TemporaryFolder folder;
  const auto refuses = [&](GgufSlot slot) {
    EXPECT_THROW(GgufWriter(folder.path() / "a.gguf", {}, {slot}), Error) << slot.name;
    EXPECT_FALSE(std::filesystem::exists(folder.path() / "a.gguf"));
  };
  refuses({"", DType::kF32, {1}});
  refuses({std::string(65, 'x'), DType::kF32, {1}});
  refuses({"half blocks", DType::kQ4_0, {1, 48}});
  refuses({"bool", DType::kBool, {1}});
  refuses({"deep", DType::kF32, {1, 1, 1, 1, 1}});
  EXPECT_THROW(GgufWriter(folder.path() / "a.gguf", {}, {{"a", DType::kF32, {1}}, {"a", DType::kF32, {1}}}), Error);
  EXPECT_THROW(GgufMetadata().set_u32("", 1), Error);
}

}  // namespace
}  // namespace nibble
