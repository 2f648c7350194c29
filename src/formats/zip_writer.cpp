#include <bit>
#include <cstring>

#include "core/checked.h"
#include "core/text.h"
#include "formats/crc32.h"
#include "formats/zip.h"

namespace nibble {
namespace {

constexpr size_t kLocalBytes = 30;
constexpr size_t kLocalExtra64 = 20;     // id, size, two sizes
constexpr size_t kPaddingHeader = 4;     // id, size
constexpr uint16_t kPaddingId = 0x4246;  // "FB", torch's own
constexpr uint16_t kVersion64 = 45, kUtf8 = 1 << 11;
constexpr uint16_t kDate1980 = (1 << 5) | 1;  // files of equal content are equal
constexpr uint32_t kIn64 = 0xffffffff;

// Little-endian fields one after another.
class Fields {
 public:
  Fields& u16(size_t value) { return put(value, 2); }
  Fields& u32(size_t value) { return put(value, 4); }
  Fields& u64(size_t value) { return put(value, 8); }
  Fields& text(std::string_view text) {
    bytes_ += text;
    return *this;
  }
  Fields& zeros(size_t count) {
    bytes_.append(count, '\0');
    return *this;
  }
  size_t size() const { return bytes_.size(); }
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(bytes_)); }

 private:
  Fields& put(uint64_t value, size_t size) {
    for (size_t i = 0; i < size; ++i) bytes_ += static_cast<char>((value >> (8 * i)) & 255u);
    return *this;
  }
  std::string bytes_;
};

}  // namespace

ZipWriter::ZipWriter(const std::filesystem::path& path, std::vector<ZipSlot> slots)
    : slots_(std::move(slots)), checksums_(slots_.size()), file_(path) {
  size_t at = 0;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const ZipSlot& slot = slots_[i];
    if (slot.name.size() > 0xffff) throw Error(ErrorKind::kUsage, cat(quote(slot.name), " is too long a name"));
    const size_t fixed =
        checked_add(at, kLocalBytes + slot.name.size() + kLocalExtra64 + kPaddingHeader, "the archive");
    const size_t data = round_up(fixed, slot.alignment);
    places_.push_back({at, data});
    at = checked_add(data, slot.size, "the archive");
    total_ += slot.size;
    checksums_[i] = crc32_start(slot.size);
  }
  directory_ = at;
  file_.reserve(at);
}

void ZipWriter::write(size_t slot, size_t offset, std::span<const std::byte> bytes) {
  const size_t size = slots_.at(slot).size;
  if (offset > size || bytes.size() > size - offset)
    throw Error(ErrorKind::kUsage, cat(quote(slots_[slot].name), " has ", size, " bytes; asked to write ", bytes.size(),
                                       " at offset ", offset));
  checksums_[slot] ^= crc32_part(bytes, size - offset - bytes.size());
  file_.write_at(places_[slot].data + offset, bytes);
  written_ += bytes.size();
}

void ZipWriter::finish() {
  if (written_ != total_)
    throw Error(ErrorKind::kUsage, cat(written_.load(), " bytes of members were written of ", total_));
  Fields directory;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const ZipSlot& slot = slots_[i];
    const Place& place = places_[i];
    const size_t padding = place.data - place.header - kLocalBytes - slot.name.size() - kLocalExtra64 - kPaddingHeader;
    Fields local;
    local.u32(0x04034b50).u16(kVersion64).u16(kUtf8).u16(0).u16(0).u16(kDate1980).u32(checksums_[i]);
    local.u32(kIn64).u32(kIn64).u16(slot.name.size()).u16(kLocalExtra64 + kPaddingHeader + padding).text(slot.name);
    local.u16(1).u16(16).u64(slot.size).u64(slot.size);
    local.u16(kPaddingId).u16(padding).zeros(padding);
    file_.write_at(place.header, local.bytes());

    directory.u32(0x02014b50).u16(kVersion64).u16(kVersion64).u16(kUtf8).u16(0).u16(0).u16(kDate1980);
    directory.u32(checksums_[i]).u32(kIn64).u32(kIn64).u16(slot.name.size()).u16(4 + 24).u16(0).u16(0).u16(0).u32(0);
    directory.u32(kIn64).text(slot.name).u16(1).u16(24).u64(slot.size).u64(slot.size).u64(place.header);
  }
  const size_t size = directory.size(), end64 = directory_ + size, count = slots_.size();
  directory.u32(0x06064b50).u64(44).u16(kVersion64).u16(kVersion64).u32(0).u32(0);
  directory.u64(count).u64(count).u64(size).u64(directory_);
  directory.u32(0x07064b50).u32(0).u64(end64).u32(1);
  directory.u32(0x06054b50).u16(0).u16(0).u16(0xffff).u16(0xffff).u32(kIn64).u32(kIn64).u16(0);
  file_.write_at(directory_, directory.bytes());
  file_.sync_and_close();
}

}  // namespace nibble
