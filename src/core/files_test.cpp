#include "core/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>

#include "core/mapped_file.h"
#include "core/test_errors.h"
#include "core/test_folder.h"

namespace fs = std::filesystem;

namespace nibble {
namespace {

using testing::HasSubstr;

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(Files, TextRoundTrips) {
  const TestFolder folder;
  for (const std::string& text : {std::string(), std::string("a\0b\n", 4), std::string(100'000, 'x')}) {
    write_text_file(folder / "t", text);
    EXPECT_EQ(read_text_file(folder / "t"), text);
    copy_file_synced(folder / "t", folder / "copy");
    EXPECT_EQ(read_text_file(folder / "copy"), text);
  }
}

TEST(Files, CopiesMoreThanOneChunk) {
  const TestFolder folder;
  std::string text(9'000'001, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i % 251);
  write_text_file(folder / "a", text);
  copy_file_synced(folder / "a", folder / "b");
  EXPECT_TRUE(read_text_file(folder / "b") == text);
}

TEST(Files, ErrorsNameThePathAndTheReason) {
  const TestFolder folder;
  EXPECT_THAT(error_text([&] { read_text_file(folder / "none"); }), HasSubstr("none: No such file or directory"));
  EXPECT_THAT(error_text([&] { read_text_file(folder.path()); }), HasSubstr("not a regular file"));
  EXPECT_THAT(error_text([&] { write_text_file(folder / "no" / "file", "x"); }),
              HasSubstr("no/file: No such file or directory"));
  EXPECT_EQ(error_kind([&] { OutputFile file(folder.path()); }), ErrorKind::kIo);
}

TEST(MappedFile, MapsBytesAndReleasesPages) {
  const TestFolder folder;
  const std::string text(3 * 4096 + 5, 'q');
  write_text_file(folder / "f", text);
  const auto file = MappedFile::open(folder / "f");
  EXPECT_EQ(file->path(), folder / "f");
  ASSERT_EQ(file->bytes().size(), text.size());
  release_pages(file->bytes());
  release_pages({});
  release_pages(file->bytes().subspan(1, 10));
  EXPECT_EQ(std::memcmp(file->bytes().data(), text.data(), text.size()), 0);  // read again from the file
  write_text_file(folder / "empty", "");
  EXPECT_TRUE(MappedFile::open(folder / "empty")->bytes().empty());
}

TEST(OutputFile, WritesAtOffsetsInAnyOrder) {
  const TestFolder folder;
  OutputFile file(folder / "f");
  file.reserve(10);
  file.write_at(6, bytes_of("6789"));
  file.write_at(0, bytes_of("012345"));
  file.start_writeback();
  file.sync_and_close();
  EXPECT_EQ(read_text_file(folder / "f"), "0123456789");
}

// /dev/full refuses every write as a full disk does; a file size limit does so at a certain size.
TEST(OutputFile, AFullDiskIsAnError) {
  OutputFile file("/dev/full");
  EXPECT_THAT(error_text([&] { file.write_at(0, bytes_of("x")); }),
              HasSubstr("/dev/full at offset 0: No space left on device"));
}

TEST(OutputFile, ReserveFindsTheLimitBeforeTheWork) {
  const auto run = [] {
    const TestFolder folder;
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    setrlimit(RLIMIT_FSIZE, &limit);
    OutputFile file(folder / "f");
    const bool refused = error_kind([&] { file.reserve(1 << 20); }) == ErrorKind::kIo;
    const std::string text(8192, 'x');
    const bool write_refused = error_kind([&] { file.write_at(0, bytes_of(text)); }) == ErrorKind::kIo;
    fs::remove_all(folder.path());
    std::exit(refused && write_refused ? 0 : 1);
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(0), "");
}

TEST(StagedOutput, AFolderAppearsWholeOrNotAtAll) {
  const TestFolder folder;
  {
    StagedOutput out(folder / "model", /*folder=*/true, /*force=*/false);
    write_text_file(out.path() / "a", "1");
    EXPECT_FALSE(fs::exists(folder / "model"));
    out.commit();
  }
  EXPECT_EQ(read_text_file(folder / "model" / "a"), "1");
  EXPECT_FALSE(fs::exists(folder / "model.partial"));
  {
    StagedOutput out(folder / "other", true, false);
    write_text_file(out.path() / "a", "1");
  }
  EXPECT_FALSE(fs::exists(folder / "other"));
  EXPECT_FALSE(fs::exists(folder / "other.partial"));
}

TEST(StagedOutput, FailureLeavesTheOldOutputUntouched) {
  const TestFolder folder;
  fs::create_directory(folder / "model");
  write_text_file(folder / "model" / "a", "old");
  EXPECT_THROW(
      {
        StagedOutput out(folder / "model", true, /*force=*/true);
        write_text_file(out.path() / "a", "new");
        throw Error(ErrorKind::kIo, "disk full");
      },
      Error);
  EXPECT_EQ(read_text_file(folder / "model" / "a"), "old");
  EXPECT_FALSE(fs::exists(folder / "model.partial"));
}

TEST(StagedOutput, ForceReplacesWhateverIsThere) {
  const TestFolder folder;
  for (const bool old_is_folder : {false, true})
    for (const bool new_is_folder : {false, true}) {
      fs::remove_all(folder / "out");
      if (old_is_folder) {
        fs::create_directory(folder / "out");
        write_text_file(folder / "out" / "stale", "old");
      } else {
        write_text_file(folder / "out", "old");
      }
      StagedOutput out(folder / "out", new_is_folder, true);
      const fs::path file = new_is_folder ? out.path() / "a" : out.path();
      write_text_file(file, "new");
      out.commit();
      EXPECT_EQ(read_text_file(new_is_folder ? folder / "out" / "a" : folder / "out"), "new");
      EXPECT_FALSE(fs::exists(folder / "out" / "stale"));
      EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);  // nothing else is left behind
    }
}

TEST(StagedOutput, ExistingOutputsAreRefusedWithoutForce) {
  const TestFolder folder;
  write_text_file(folder / "out", "old");
  EXPECT_THAT(error_text([&] { StagedOutput out(folder / "out", false, false); }),
              HasSubstr("out exists; choose another name"));
  EXPECT_EQ(error_kind([&] { StagedOutput out(folder / "out", true, false); }), ErrorKind::kUsage);
  fs::create_symlink(folder / "nowhere", folder / "link");
  EXPECT_EQ(error_kind([&] { StagedOutput out(folder / "link", true, false); }), ErrorKind::kUsage);
  EXPECT_EQ(read_text_file(folder / "out"), "old");
}

TEST(StagedOutput, AnOutputThatAppearedMeanwhileIsNotReplaced) {
  const TestFolder folder;
  {
    StagedOutput out(folder / "out", false, false);
    write_text_file(out.path(), "mine");
    write_text_file(folder / "out", "somebody else's");
    EXPECT_EQ(error_kind([&] { out.commit(); }), ErrorKind::kUsage);
  }
  EXPECT_EQ(read_text_file(folder / "out"), "somebody else's");
  EXPECT_FALSE(fs::exists(folder / "out.partial"));
}

TEST(StagedOutput, StalePartialOutputIsRemoved) {
  const TestFolder folder;
  fs::create_directory(folder / "out.partial");
  write_text_file(folder / "out.partial" / "stale", "x");
  StagedOutput out(folder / "out", true, false);
  EXPECT_TRUE(fs::is_empty(out.path()));
}

TEST(StagedOutput, TrailingSlashesAndRelativeNames) {
  const TestFolder folder;
  {
    StagedOutput out(fs::path((folder / "model").string() + "/"), true, false);
    EXPECT_EQ(out.path(), folder / "model.partial");
    out.commit();
  }
  EXPECT_TRUE(fs::is_directory(folder / "model"));
  for (const char* bad : {"", ".", "..", "a/..", "../..", "/"})
    EXPECT_EQ(error_kind([&] { StagedOutput out(bad, true, true); }), ErrorKind::kUsage) << bad;
}

TEST(StagedOutput, PlacesThatCannotBeWrittenAreFoundAtOnce) {
  const TestFolder folder;
  EXPECT_EQ(error_kind([&] { StagedOutput out(folder / "missing" / "out", true, false); }), ErrorKind::kIo);
  EXPECT_EQ(error_kind([&] { StagedOutput out(folder / "missing" / "out", false, false); }), ErrorKind::kIo);
  EXPECT_EQ(error_kind([&] { StagedOutput out("/proc/nibble-out", true, false); }),
            ErrorKind::kIo);     // root fails here too
  if (::geteuid() == 0) return;  // root may write everywhere else
  fs::create_directory(folder / "sealed");
  fs::permissions(folder / "sealed", fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_THAT(error_text([&] { StagedOutput out(folder / "sealed" / "out", true, false); }),
              HasSubstr("Permission denied"));
  fs::permissions(folder / "sealed", fs::perms::owner_all);
}

}  // namespace
}  // namespace nibble
