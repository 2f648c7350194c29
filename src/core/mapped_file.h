#pragma once
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace nibble {

// A whole file mapped read-only. Thread-safe. Throws Error(kIo) when it cannot be opened or mapped.
// A file that shrinks while it is mapped raises SIGBUS in the reader: nibble does not defend against that.
class MappedFile {
 public:
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  MappedFile(std::filesystem::path path, std::span<const std::byte> bytes) : path_(std::move(path)), bytes_(bytes) {}
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

// Tells the kernel that these mapped, clean pages are not needed for now: they leave this process's resident set and
// are read again from the page cache when touched. Any span is safe; only whole pages inside it are released.
void release_pages(std::span<const std::byte> bytes) noexcept;

}  // namespace nibble
