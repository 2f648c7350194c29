#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <set>
#include <type_traits>

#include "core/checked.h"
#include "core/text.h"
#include "formats/damage.h"
#include "formats/zip.h"

namespace nibble {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50,
                   kLocator = 0x07064b50;
constexpr size_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kEnd64Bytes = 56, kLocatorBytes = 20;
constexpr size_t kMaxComment = 65535;
constexpr uint16_t kEncrypted = 1, kExtra64 = 1;

[[noreturn]] void corrupt(const std::string& what, std::string_view advice = kDamaged) {
  throw Error(ErrorKind::kCorrupt, cat("zip archive: ", what, "; ", advice));
}

// Little-endian fields at known places of one record, whose bytes are there.
struct Record {
  std::span<const std::byte> bytes;

  template <class T>
  T get(size_t at) const {
    static_assert(std::endian::native == std::endian::little);
    T value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
  }
  uint16_t u16(size_t at) const { return get<uint16_t>(at); }
  uint32_t u32(size_t at) const { return get<uint32_t>(at); }
  uint64_t u64(size_t at) const { return get<uint64_t>(at); }
};

Record record(std::span<const std::byte> archive, size_t offset, size_t size, std::string_view what) {
  if (offset > archive.size() || size > archive.size() - offset)
    corrupt(cat("the ", what, " would be at file offset ", offset, ", the file has ", archive.size(), " bytes"),
            kTruncated);
  return {archive.subspan(offset, size)};
}

struct Directory {
  size_t offset, size, members;
};

// The record that ends the archive, looked for from the back.
size_t find_end(std::span<const std::byte> archive) {
  if (archive.size() >= kEndBytes) {
    const size_t last = archive.size() - kEndBytes;
    const size_t first = last - std::min(last, kMaxComment);
    for (size_t at = last + 1; at-- > first;) {
      const Record end{archive.subspan(at, kEndBytes)};
      if (end.u32(0) == kEnd && end.u16(20) == last - at) return at;
    }
  }
  corrupt("its directory is missing at the end of the file", kTruncated);
}

Directory find_directory(std::span<const std::byte> archive) {
  const size_t at = find_end(archive);
  const Record end{archive.subspan(at, kEndBytes)};
  Directory directory{end.u32(16), end.u32(12), end.u16(10)};
  bool several = end.u16(4) != 0 && end.u16(4) != 0xffff;
  size_t limit = at;
  if (at >= kLocatorBytes && Record{archive.subspan(at - kLocatorBytes, kLocatorBytes)}.u32(0) == kLocator) {
    const Record locator{archive.subspan(at - kLocatorBytes, kLocatorBytes)};
    const Record end64 =
        record(archive, checked_cast<size_t>(locator.u64(8), "an offset"), kEnd64Bytes, "zip64 end record");
    if (end64.u32(0) != kEnd64) corrupt("the zip64 end record has another signature");
    directory = {end64.u64(48), end64.u64(40), end64.u64(32)};
    several = end64.u32(16) != 0 || locator.u32(4) != 0;
    limit = static_cast<size_t>(locator.u64(8));
  }
  if (several) throw Error(ErrorKind::kUnsupported, "a zip archive in several parts; join them first");
  if (directory.offset > limit || directory.size > limit - directory.offset)
    corrupt(cat("its directory (", directory.size, " bytes at offset ", directory.offset, ") reaches beyond offset ",
                limit));
  if (directory.members > directory.size / kCentralBytes)
    corrupt(cat("a directory of ", directory.size, " bytes cannot hold ", directory.members, " members"));
  return directory;
}

// The fields of a central header that are 0xffffffff stand in its zip64 extra, in this order.
void read_extra64(std::span<const std::byte> extra, size_t& size, size_t& packed_size, size_t& offset) {
  constexpr size_t kIn64 = 0xffffffff;
  if (size != kIn64 && packed_size != kIn64 && offset != kIn64) return;
  for (size_t at = 0; extra.size() - at >= 4;) {
    const Record header{extra.subspan(at, 4)};
    const size_t bytes = header.u16(2);
    if (bytes > extra.size() - at - 4) break;
    if (header.u16(0) == kExtra64) {
      Record values{extra.subspan(at + 4, bytes)};
      for (size_t* value : {&size, &packed_size, &offset}) {
        if (*value != kIn64) continue;
        if (values.bytes.size() < 8) corrupt("a zip64 field is too short");
        *value = values.u64(0);
        values.bytes = values.bytes.subspan(8);
      }
      return;
    }
    at += 4 + bytes;
  }
}

void refuse_overlaps(std::vector<ZipMember> members) {
  std::erase_if(members, [](const ZipMember& member) { return member.bytes.empty(); });
  std::sort(members.begin(), members.end(),
            [](const ZipMember& a, const ZipMember& b) { return a.bytes.data() < b.bytes.data(); });
  for (size_t i = 1; i < members.size(); ++i)
    if (members[i - 1].bytes.data() + members[i - 1].bytes.size() > members[i].bytes.data())
      corrupt(cat("members ", quote(members[i - 1].name), " and ", quote(members[i].name), " overlap"));
}

}  // namespace

std::vector<ZipMember> parse_zip(std::span<const std::byte> archive) {
  const Directory directory = find_directory(archive);
  const auto entries = archive.subspan(directory.offset, directory.size);
  std::vector<ZipMember> members;
  std::set<std::string, std::less<>> names;
  size_t at = 0;
  for (size_t i = 0; i < directory.members; ++i) {
    const Record central = record(entries, at, kCentralBytes, "directory");
    if (central.u32(0) != kCentral) corrupt(cat("member ", i, " of its directory has another signature"));
    const size_t name_size = central.u16(28), extra_size = central.u16(30), comment_size = central.u16(32);
    const Record rest =
        record(entries, at + kCentralBytes, name_size + extra_size + comment_size, "end of a directory entry");
    at += kCentralBytes + name_size + extra_size + comment_size;
    std::string name(reinterpret_cast<const char*>(rest.bytes.data()), name_size);
    if (!names.insert(name).second) corrupt(cat("member ", quote(name), " is there twice"));

    size_t size = central.u32(24), packed_size = central.u32(20), offset = central.u32(42);
    read_extra64(rest.bytes.subspan(name_size, extra_size), size, packed_size, offset);
    if ((central.u16(8) & kEncrypted) != 0)
      throw Error(ErrorKind::kUnsupported, cat("zip member ", quote(name), " is encrypted"));
    if (central.u16(10) != 0)
      throw Error(
          ErrorKind::kUnsupported,
          cat("zip member ", quote(name), " is compressed; torch.save and numpy.savez do not compress: save it again"));
    if (size != packed_size) corrupt(cat("stored member ", quote(name), " has two different sizes"));

    // Sizes of the local header may be missing; its variable part counts.
    const Record local = record(archive, offset, kLocalBytes, cat("header of member ", quote(name)));
    if (local.u32(0) != kLocal) corrupt(cat("member ", quote(name), " has no header at file offset ", offset));
    const size_t data = offset + kLocalBytes + local.u16(26) + local.u16(28);
    if (data > directory.offset || size > directory.offset - data)
      corrupt(cat("member ", quote(name), " (", size, " bytes at offset ", data, ") reaches into the directory at ",
                  directory.offset));
    members.push_back({std::move(name), archive.subspan(data, size), central.u32(16)});
  }
  refuse_overlaps(members);
  return members;
}

}  // namespace nibble
