#include "formats/zip.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/files.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "formats/crc32.h"
#include "formats/test_damage.h"

namespace nibble {
namespace {

using testing::HasSubstr;

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }
std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Little-endian numbers.
std::string u16(unsigned value) { return {static_cast<char>(value & 255u), static_cast<char>(value >> 8)}; }
std::string u32(unsigned value) { return u16(value & 0xffffu) + u16(value >> 16); }

// A plain archive as other programs write it, without zip64: one member.
std::string plain_archive(const std::string& name, const std::string& data, unsigned flags = 0, unsigned method = 0,
                          const std::string& comment = "") {
  const std::string local = "PK\3\4" + u16(20) + u16(flags) + u16(method) + u32(0) + u32(0) + u32(0) + u32(0) +
                            u16(static_cast<unsigned>(name.size())) + u16(3) + name + "ext" + data;
  const auto size = static_cast<unsigned>(data.size());
  const std::string central = "PK\1\2" + u16(20) + u16(20) + u16(flags) + u16(method) + u32(0) + u32(7) + u32(size) +
                              u32(size) + u16(static_cast<unsigned>(name.size())) + u16(0) + u16(2) + u16(0) + u16(0) +
                              u32(0) + u32(0) + name + "cc";
  return local + central + "PK\5\6" + u16(0) + u16(0) + u16(1) + u16(1) + u32(static_cast<unsigned>(central.size())) +
         u32(static_cast<unsigned>(local.size())) + u16(static_cast<unsigned>(comment.size())) + comment;
}

std::string our_archive() {
  TestFolder folder;
  ZipWriter writer(folder / "a.zip", {{"a/first", 5, 64}, {"a/empty", 0, 64}, {"a/second", 9, 64}});
  writer.write(2, 4, bytes_of("56789"));
  writer.write(0, 0, bytes_of("hello"));
  writer.write(2, 0, bytes_of("1234"));
  writer.finish();
  return read_text_file(folder / "a.zip");
}

TEST(Zip, WritesWhatItReads) {
  const std::string archive = our_archive();
  const auto members = parse_zip(bytes_of(archive));
  ASSERT_EQ(members.size(), 3u);
  EXPECT_EQ(members[0].name, "a/first");
  EXPECT_EQ(text_of(members[0].bytes), "hello");
  EXPECT_EQ(text_of(members[1].bytes), "");
  EXPECT_EQ(text_of(members[2].bytes), "123456789");
  EXPECT_EQ(members[2].checksum, 0xCBF43926u);
  for (const ZipMember& member : members) {
    EXPECT_EQ((member.bytes.data() - bytes_of(archive).data()) % 64, 0) << member.name;
    EXPECT_EQ(member.checksum, crc32(member.bytes));
  }
}

TEST(Zip, WritesEveryByteOrNothing) {
  TestFolder folder;
  ZipWriter writer(folder / "a.zip", {{"x", 4}});
  EXPECT_THAT(error_text([&] { writer.write(0, 2, bytes_of("abc")); }), HasSubstr("'x' has 4 bytes; asked to write 3"));
  writer.write(0, 0, bytes_of("abc"));
  EXPECT_THAT(error_text([&] { writer.finish(); }), HasSubstr("3 bytes of members were written of 4"));
}

TEST(Zip, ReadsPlainArchives) {
  for (const char* comment : {"", "PK\5\6 no end", "a comment"}) {
    const std::string archive = plain_archive("name", "some data", 8, 0, comment);
    const auto members = parse_zip(bytes_of(archive));
    ASSERT_EQ(members.size(), 1u);
    EXPECT_EQ(text_of(members[0].bytes), "some data");
    EXPECT_EQ(members[0].checksum, 7u);
  }
}

TEST(Zip, RefusesWhatItCannotRead) {
  const auto error = [](const std::string& archive) { return error_text([&] { parse_zip(bytes_of(archive)); }); };
  EXPECT_THAT(error(plain_archive("n", "data", 0, 8)), HasSubstr("'n' is compressed"));
  EXPECT_THAT(error(plain_archive("n", "data", 1)), HasSubstr("'n' is encrypted"));
  EXPECT_THAT(error("PK\3\4"), HasSubstr("directory is missing"));
  std::string archive = plain_archive("n", "data");
  const auto change = [&](size_t from_end, char value) {
    std::string changed = archive;
    changed[changed.size() - from_end] = value;
    return error(changed);
  };
  EXPECT_THAT(change(12, 2), HasSubstr("cannot hold 2 members"));
  EXPECT_THAT(change(6, 99), HasSubstr("its directory"));
  archive = plain_archive("n", "data");
  archive[0] = 'X';
  EXPECT_THAT(error(archive), HasSubstr("'n' has no header at file offset 0"));
}

TEST(Zip, TruncatedAndDamagedArchivesAreRefused) {
  const std::string ours = our_archive(), plain = plain_archive("name", "data");
  for (const std::string& archive : {ours, plain}) {
    const auto parse = [](std::span<const std::byte> bytes) { parse_zip(bytes); };
    for (size_t size = 0; size < archive.size(); ++size)
      EXPECT_FALSE(accepted(parse, bytes_of(archive).first(size))) << size;
    // Checksums, dates and padding are not looked at; the rest is.
    EXPECT_LT(accepted_bit_flips(parse, bytes_of(archive)), archive.size() * 8);
  }
}

}  // namespace
}  // namespace nibble
