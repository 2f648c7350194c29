#include "formats/gguf_writer.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <set>

#include "core/checked.h"
#include "formats/ggml_type.h"

namespace nibble {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr size_t kAlignment = 32;
constexpr size_t kMaxName = 64, kMaxKey = 65535, kMaxDimensions = 4;
constexpr size_t kWritebackBytes = size_t{32} << 20;

enum ValueType : uint32_t { kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9, kU64 = 10 };

template <class T>
void put(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

void put_text(std::string& out, std::string_view text) {
  put(out, uint64_t{text.size()});
  out += text;
}

template <class T>
void put_list(std::string& out, uint32_t type, std::span<const T> values) {
  put(out, uint32_t{kArray});
  put(out, type);
  put(out, uint64_t{values.size()});
  out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

// The header up to the data; `offsets` are those of the slots, from the start of the data.
std::string make_header(const GgufMetadata& metadata, const std::vector<GgufSlot>& slots,
                        const std::vector<size_t>& offsets) {
  std::string header = "GGUF";
  put(header, uint32_t{3});
  put(header, uint64_t{slots.size()});
  put(header, uint64_t{metadata.size()});
  metadata.append_to(header);
  for (size_t i = 0; i < slots.size(); ++i) {
    put_text(header, slots[i].name);
    put(header, checked_cast<uint32_t>(slots[i].shape.size(), "dimensions"));
    for (auto extent = slots[i].shape.rbegin(); extent != slots[i].shape.rend(); ++extent)
      put(header, uint64_t{*extent});
    put(header, ggml_type_number(slots[i].dtype).value());
    put(header, uint64_t{offsets[i]});
  }
  header.resize(round_up(header.size(), kAlignment), '\0');
  return header;
}

void check(const std::vector<GgufSlot>& slots) {
  std::set<std::string_view> names;
  for (const GgufSlot& slot : slots) {
    const auto refuse = [&](const std::string& why) {
      throw Error(ErrorKind::kUsage, cat("tensor ", slot.name, ": ", why));
    };
    if (slot.name.empty() || slot.name.size() > kMaxName)
      refuse(cat("GGUF names have 1 to ", kMaxName, " bytes, not ", slot.name.size()));
    if (!names.insert(slot.name).second) refuse("GGUF cannot hold two tensors of one name");
    if (!ggml_type_number(slot.dtype)) refuse(cat("GGUF has no type ", info(slot.dtype).name));
    if (slot.shape.size() > kMaxDimensions)
      refuse(cat("GGUF tensors have at most ", kMaxDimensions, " dimensions, not ", slot.shape.size()));
    const size_t row = slot.shape.empty() ? 1 : slot.shape.back();
    if (row % info(slot.dtype).block != 0)
      refuse(cat("rows of ", row, " elements are no whole ", info(slot.dtype).name, " blocks"));
  }
}

}  // namespace

std::string& GgufMetadata::value_of(std::string_view key) {
  if (key.empty() || key.size() > kMaxKey)
    throw Error(ErrorKind::kUsage, cat("GGUF keys have 1 to ", kMaxKey, " bytes, not ", key.size()));
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.key == key; });
  Entry& entry = found != entries_.end() ? *found : entries_.emplace_back(Entry{std::string(key), ""});
  entry.value.clear();
  return entry.value;
}

void GgufMetadata::set_u32(std::string_view key, uint32_t value) {
  std::string& out = value_of(key);
  put(out, uint32_t{kU32});
  put(out, value);
}

void GgufMetadata::set_u64(std::string_view key, uint64_t value) {
  std::string& out = value_of(key);
  put(out, uint32_t{kU64});
  put(out, value);
}

void GgufMetadata::set_f32(std::string_view key, float value) {
  std::string& out = value_of(key);
  put(out, uint32_t{kF32});
  put(out, value);
}

void GgufMetadata::set_bool(std::string_view key, bool value) {
  std::string& out = value_of(key);
  put(out, uint32_t{kBool});
  put(out, uint8_t{value});
}

void GgufMetadata::set_string(std::string_view key, std::string_view value) {
  std::string& out = value_of(key);
  put(out, uint32_t{kString});
  put_text(out, value);
}

void GgufMetadata::set_strings(std::string_view key, std::span<const std::string> values) {
  std::string& out = value_of(key);
  put(out, uint32_t{kArray});
  put(out, uint32_t{kString});
  put(out, uint64_t{values.size()});
  for (const std::string& value : values) put_text(out, value);
}

void GgufMetadata::set_i32s(std::string_view key, std::span<const int32_t> values) {
  put_list(value_of(key), kI32, values);
}

void GgufMetadata::set_f32s(std::string_view key, std::span<const float> values) {
  put_list(value_of(key), kF32, values);
}

void GgufMetadata::set_stored(std::string_view key, std::span<const std::byte> stored) {
  value_of(key).assign(reinterpret_cast<const char*>(stored.data()), stored.size());
}

bool GgufMetadata::contains(std::string_view key) const {
  return std::any_of(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.key == key; });
}

void GgufMetadata::append_to(std::string& header) const {
  for (const Entry& entry : entries_) {
    put_text(header, entry.key);
    header += entry.value;
  }
}

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata, std::vector<GgufSlot> slots)
    : slots_((check(slots), std::move(slots))), file_(path) {
  size_t end = 0;
  for (const GgufSlot& slot : slots_) {
    const size_t bytes = byte_size(slot.dtype, element_count(slot.shape));
    offsets_.push_back(end);
    data_bytes_ = checked_add(data_bytes_, bytes, "the model");
    end = round_up(checked_add(end, bytes, "the model"), kAlignment);
  }
  header_ = make_header(metadata, slots_, offsets_);
  for (size_t& offset : offsets_) offset += header_.size();
  file_bytes_ = header_.size() + end;
  file_.reserve(file_bytes_);
}

void GgufWriter::write(size_t slot, size_t offset, std::span<const std::byte> bytes) {
  assert(offset + bytes.size() <= byte_size(slots_[slot].dtype, element_count(slots_[slot].shape)));
  file_.write_at(offsets_[slot] + offset, bytes);
  written_ += bytes.size();
  if (unsynced_.fetch_add(bytes.size()) + bytes.size() < kWritebackBytes) return;
  unsynced_ = 0;
  file_.start_writeback();
}

void GgufWriter::finish() {
  if (written_ != data_bytes_)
    throw Error(ErrorKind::kIo, cat("only ", written_.load(), " of ", data_bytes_, " bytes of tensors were written"));
  file_.write_at(0, std::as_bytes(std::span(header_)));
  // What pads a tensor to the next one's start is zero; the last one's makes the file a whole number of blocks.
  constexpr std::byte kZeros[kAlignment] = {};
  for (size_t i = 0; i < slots_.size(); ++i) {
    const size_t end = offsets_[i] + byte_size(slots_[i].dtype, element_count(slots_[i].shape));
    const size_t next = i + 1 < slots_.size() ? offsets_[i + 1] : file_bytes_;
    if (next > end) file_.write_at(end, std::span(kZeros).first(next - end));
  }
  file_.sync_and_close();
}

}  // namespace nibble
