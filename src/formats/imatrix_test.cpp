#include "formats/imatrix.h"

#include <gmock/gmock.h>

#include <cstring>

#include "core/files.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "formats/gguf.h"
#include "formats/test_damage.h"
#include "formats/test_gguf.h"

namespace nibble {
namespace {

Imatrix sample() {
  Imatrix imatrix;
  imatrix.entries["blk.0.attn_q.weight"] = {{1.0f, 0.0f, 2.5f}, 1024};
  imatrix.entries["blk.0.ffn_down.weight"] = {{3.0f}, 512};
  imatrix.datasets = {"novel.txt"};
  imatrix.chunks = 2;
  imatrix.chunk_size = 512;
  return imatrix;
}

// llama.cpp's older format, byte by byte.
std::vector<std::byte> legacy() {
  std::string out;
  const auto number = [&](int32_t value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); };
  const auto real = [&](float value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); };
  number(1);
  number(19);
  out += "blk.0.attn_q.weight";
  number(4);  // calls
  number(2);
  real(8.0f), real(2.0f);
  number(7);  // chunks
  number(5);
  out += "a.txt";
  const auto bytes = std::as_bytes(std::span(out));
  return {bytes.begin(), bytes.end()};
}

std::vector<std::byte> bytes_of(const std::filesystem::path& path) {
  const std::string text = read_text_file(path);
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

TEST(Imatrix, WhatIsWrittenIsReadAgain) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "stats.gguf";
  write_imatrix(sample(), path, false);
  const Imatrix back = read_imatrix(path);
  EXPECT_EQ(back.entries, sample().entries);
  EXPECT_EQ(back.datasets, sample().datasets);
  EXPECT_EQ(back.chunks, 2u);
  EXPECT_EQ(back.chunk_size, 512u);
  EXPECT_THROW(write_imatrix(sample(), path, false), Error);
  EXPECT_NO_THROW(write_imatrix(sample(), path, true));
}

TEST(Imatrix, TheOlderFormatIsRead) {
  const Imatrix imatrix = parse_imatrix(legacy());
  ASSERT_EQ(imatrix.entries.size(), 1u);
  EXPECT_EQ(imatrix.entries.begin()->first, "blk.0.attn_q.weight");
  EXPECT_EQ(imatrix.entries.begin()->second, (Imatrix::Entry{{8.0f, 2.0f}, 4}));
  EXPECT_EQ(imatrix.chunks, 7u);
  EXPECT_EQ(imatrix.datasets, std::vector<std::string>{"a.txt"});
}

TEST(Imatrix, MergingAddsSums) {
  Imatrix all = sample();
  merge(all, sample());
  EXPECT_EQ(all.entries["blk.0.attn_q.weight"], (Imatrix::Entry{{2.0f, 0.0f, 5.0f}, 2048}));
  EXPECT_EQ(all.chunks, 4u);
  EXPECT_EQ(all.datasets.size(), 1u);
  Imatrix other;
  other.entries["blk.0.ffn_down.weight"] = {{1.0f, 2.0f}, 1};
  EXPECT_THROW(merge(all, other), Error);
}

TEST(Imatrix, TruncatedFilesAreRefused) {
  const TemporaryFolder folder;
  write_imatrix(sample(), folder.path() / "stats.gguf", false);
  const auto gguf = bytes_of(folder.path() / "stats.gguf");
  const auto old = legacy();
  const auto parse = [](std::span<const std::byte> bytes) { parse_imatrix(bytes); };
  ASSERT_TRUE(accepted(parse, gguf));
  ASSERT_TRUE(accepted(parse, old));
  // The older format may end behind its entries or its number of chunks, GGUF within the last tensor's padding.
  for (size_t size = 0; size + 13 < old.size(); ++size)
    EXPECT_FALSE(accepted(parse, std::span(old).first(size))) << size;
  for (size_t size = 0; size + 32 < gguf.size(); ++size)
    EXPECT_FALSE(accepted(parse, std::span(gguf).first(size))) << size;
  accepted_bit_flips(parse, old);
  accepted_bit_flips(parse, gguf);
}

TEST(Imatrix, RefusesWhatIsNoStatistics) {
  TestGguf model;
  model.key("general.type", "model");
  const auto refused = [](const auto& bytes) {
    try {
      parse_imatrix(std::as_bytes(std::span(bytes)));
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(refused(model.build()), testing::HasSubstr("no file of statistics"));
  auto negative = legacy();
  const float value = -1.0f;
  std::memcpy(negative.data() + 4 + 4 + 19 + 8, &value, sizeof value);
  EXPECT_THAT(refused(negative), testing::HasSubstr("negative"));
}

}  // namespace
}  // namespace nibble
