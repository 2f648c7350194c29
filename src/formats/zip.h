#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/files.h"

// Zip archives of stored (uncompressed) members, as torch.save and numpy.savez write them. Source: PKWARE's
// APPNOTE 6.3.10.
namespace nibble {

struct ZipMember {
  std::string name;
  std::span<const std::byte> bytes;  // in the archive
  uint32_t checksum;                 // CRC-32 as the archive states it; not verified
};

// The members in the directory's order. Throws Error(kUnsupported) for compressed or encrypted members and archives in
// several parts, Error(kCorrupt) for a damaged archive: members outside of it, overlapping, or twice.
std::vector<ZipMember> parse_zip(std::span<const std::byte> archive);

struct ZipSlot {
  std::string name;
  size_t size;
  size_t alignment = 1;  // of its first byte in the file: a power of two, at most 4096
};

// Writes an archive whose members are known beforehand; their bytes may come in any order and from several threads.
// Always in zip64, so that members and archives of any size are written alike. Memory depends on the number of members
// only.
class ZipWriter {
 public:
  ZipWriter(const std::filesystem::path& path, std::vector<ZipSlot> slots);
  // Bytes of member `slot` from byte `offset` within it on. Every byte is to be written exactly once.
  void write(size_t slot, size_t offset, std::span<const std::byte> bytes);
  void start_writeback() noexcept { file_.start_writeback(); }
  // Headers and directory; syncs and closes. Every byte must have been written (checked by count).
  void finish();

 private:
  struct Place {
    size_t header;  // offset of the local header
    size_t data;
  };
  std::vector<ZipSlot> slots_;
  std::vector<Place> places_;
  std::vector<std::atomic<uint32_t>> checksums_;
  size_t directory_ = 0;  // offset of the central directory
  size_t total_ = 0;      // bytes of all members
  std::atomic<size_t> written_{0};
  OutputFile file_;
};

}  // namespace nibble
