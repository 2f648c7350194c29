#include "formats/safetensors_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/test_errors.h"
#include "core/test_folder.h"
#include "core/threads.h"
#include "formats/safetensors.h"

namespace nibble {
namespace {

using testing::HasSubstr;

std::vector<std::byte> ramp(size_t count, size_t start) {
  std::vector<std::byte> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<std::byte>(start + i * 3);
  return out;
}

TEST(SafeTensorsWriter, WhatIsWrittenIsReadBack) {
  const TestFolder folder;
  const std::vector<SafeTensorSlot> slots = {{"wide", DType::kF64, {2, 3}},
                                             {"empty", DType::kF32, {0}},
                                             {"a \"b\" \xc3\xa9\n", DType::kBF16, {5}},
                                             {"odd", DType::kBool, {3}}};
  SafeTensorsWriter writer(folder / "m", slots, {{"format", "pt"}});
  EXPECT_EQ(writer.data_bytes(), 48u + 0 + 10 + 3);
  writer.write(3, 1, ramp(2, 9));
  writer.write(0, 0, ramp(48, 1));
  writer.write(2, 0, ramp(10, 5));
  writer.write(3, 0, ramp(1, 8));
  writer.start_writeback();
  writer.finish();

  const SafeTensorsFile file = SafeTensorsFile::open(folder / "m");
  EXPECT_EQ(file.metadata.at("format"), "pt");
  ASSERT_EQ(file.tensors.size(), slots.size());
  for (size_t i = 0; i < slots.size(); ++i) {
    EXPECT_EQ(file.tensors[i].name, slots[i].name);
    EXPECT_EQ(file.tensors[i].view.dtype, slots[i].dtype);
    EXPECT_EQ(file.tensors[i].view.shape, slots[i].shape);
  }
  EXPECT_TRUE(std::ranges::equal(file.tensors[0].view.bytes, ramp(48, 1)));
  EXPECT_TRUE(std::ranges::equal(file.tensors[2].view.bytes, ramp(10, 5)));
  EXPECT_EQ(file.tensors[3].view.bytes[0], std::byte{8});
  EXPECT_EQ(file.tensors[3].view.bytes[2], std::byte{12});
}

TEST(SafeTensorsWriter, DataStartsAtAMultipleOf64) {
  const TestFolder folder;
  for (size_t length = 1; length < 70; length += 5) {
    SafeTensorsWriter writer(folder / "m", {{std::string(length, 'n'), DType::kU8, {1}}}, {});
    writer.write(0, 0, ramp(1, 7));
    writer.finish();
    EXPECT_EQ(read_text_file(folder / "m").size() % 64, 1u);
    EXPECT_EQ(SafeTensorsFile::open(folder / "m").tensors[0].view.bytes[0], std::byte{7});
  }
}

TEST(SafeTensorsWriter, ManyThreadsMayWrite) {
  const TestFolder folder;
  std::vector<SafeTensorSlot> slots;
  for (size_t i = 0; i < 100; ++i) slots.push_back({cat("t", i), DType::kU16, {i, 7}});
  SafeTensorsWriter writer(folder / "m", slots, {});
  set_thread_count(4);
  parallel_for(slots.size(), 1, [&](size_t i, size_t) {
    const auto data = ramp(14 * i, i);
    writer.write(i, 0, std::span(data).first(7 * i));
    writer.write(i, 7 * i, std::span(data).subspan(7 * i));
  });
  set_thread_count(0);
  writer.finish();
  for (const SafeTensor& tensor : SafeTensorsFile::open(folder / "m").tensors)
    EXPECT_TRUE(std::ranges::equal(tensor.view.bytes, ramp(14 * tensor.view.shape[0], tensor.view.shape[0])));
}

TEST(SafeTensorsWriter, NoTensorsIsAValidFile) {
  const TestFolder folder;
  SafeTensorsWriter writer(folder / "m", {}, {});
  writer.finish();
  EXPECT_TRUE(SafeTensorsFile::open(folder / "m").tensors.empty());
}

TEST(SafeTensorsWriter, BadSlotsAreRefusedBeforeTheFileIsTouched) {
  const TestFolder folder;
  const auto error = [&](std::vector<SafeTensorSlot> slots, std::map<std::string, std::string> metadata = {}) {
    return error_text([&] { SafeTensorsWriter(folder / "m", std::move(slots), metadata); });
  };
  EXPECT_THAT(error({{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}}), HasSubstr("would be called 'a'"));
  EXPECT_THAT(error({{"__metadata__", DType::kU8, {1}}}), HasSubstr("__metadata__"));
  EXPECT_THAT(error({{"a", DType::kQ4_K, {256}}}), HasSubstr("'a': safetensors cannot hold Q4_K"));
  EXPECT_THAT(error({{"\xff", DType::kU8, {1}}}), HasSubstr("not valid UTF-8"));
  EXPECT_THAT(error({{"a", DType::kU8, {1}}}, {{"k", "\xff"}}), HasSubstr("not valid UTF-8"));
  EXPECT_THAT(error({{"a", DType::kF64, {SIZE_MAX / 2}}}), HasSubstr("too large"));
  EXPECT_THAT(error({{"a", DType::kU8, {SIZE_MAX - 5}}, {"b", DType::kU8, {9}}}), HasSubstr("too large"));
  EXPECT_FALSE(std::filesystem::exists(folder / "m"));
}

TEST(SafeTensorsWriter, WritesOutsideATensorAndMissingBytesAreRefused) {
  const TestFolder folder;
  SafeTensorsWriter writer(folder / "m", {{"a", DType::kU8, {4}}, {"b", DType::kU8, {4}}}, {});
  EXPECT_THAT(error_text([&] { writer.write(0, 1, ramp(4, 0)); }),
              HasSubstr("'a' has 4 bytes; asked to write 4 at offset 1"));
  EXPECT_THROW(writer.write(0, 5, {}), Error);
  writer.write(0, 0, ramp(4, 0));
  writer.write(1, 0, ramp(3, 0));
  EXPECT_THAT(error_text([&] { writer.finish(); }), HasSubstr("7 bytes of tensor data were written of 8"));
  writer.write(1, 3, ramp(1, 0));
  writer.finish();
}

TEST(SafeTensorsWriter, AFullDiskIsFoundAtOnce) {
  EXPECT_EQ(error_kind([] { SafeTensorsWriter("/dev/full", {{"a", DType::kU8, {1}}}, {}); }), ErrorKind::kIo);
}

}  // namespace
}  // namespace nibble
