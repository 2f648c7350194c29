#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace nibble {

// The whole file. Throws Error(kIo) when it cannot be read.
std::string read_text_file(const std::filesystem::path& path);

// A file being written at known offsets. Thread-safe for disjoint ranges. Not visible under its final name until
// whoever owns the folder renames it. All failures are Error(kIo) with the path and the system's reason (a full disk,
// say).
class OutputFile {
 public:
  explicit OutputFile(const std::filesystem::path& path);  // created, or truncated
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write_at(size_t offset, std::span<const std::byte> bytes);
  // Reserves `size` bytes, so that a full disk is found before the work and not after it.
  void reserve(size_t size);
  // Starts writing dirty pages back now, so that the final sync has little left to do. Best effort.
  void start_writeback() noexcept;
  void sync_and_close();

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

// Written, fsynced, closed.
void write_text_file(const std::filesystem::path& path, std::string_view text);
void copy_file_synced(const std::filesystem::path& from, const std::filesystem::path& to);

// A fresh folder among the system's temporary ones, removed with everything in it. Throws Error(kIo).
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A destination that appears whole or not at all: work happens in "OUT.partial" beside it, commit() renames.
class StagedOutput {
 public:
  // A file or a folder at `destination`. Throws Error(kUsage) when `destination` exists and `force` is false,
  // Error(kIo) when the parent folder is missing or not writable. A stale OUT.partial is removed, unless it is to be
  // continued: `resume`, folders only. The staging path is created at once.
  StagedOutput(std::filesystem::path destination, bool folder, bool force, bool resume = false);
  // Without commit(): removes the staging path, unless keep() said that somebody may continue.
  ~StagedOutput();
  StagedOutput(const StagedOutput&) = delete;
  StagedOutput& operator=(const StagedOutput&) = delete;

  const std::filesystem::path& path() const { return staging_; }
  // Syncs the folder and renames it into place; an old destination (force) is replaced only now, in one step where the
  // file system can. A destination that appeared meanwhile is not replaced without force: Error(kUsage).
  void commit();
  // The same for one file or folder in the staging folder; the rest of it is removed.
  void commit(const std::filesystem::path& name);
  void keep() { keep_ = true; }

 private:
  void place(const std::filesystem::path& finished);

  std::filesystem::path destination_;
  std::filesystem::path staging_;
  bool force_ = false;
  bool keep_ = false;
  bool committed_ = false;
};

}  // namespace nibble
