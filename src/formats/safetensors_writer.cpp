#include "formats/safetensors_writer.h"

#include <bit>
#include <cstring>
#include <set>

#include "core/checked.h"
#include "core/json.h"
#include "core/text.h"

namespace nibble {
namespace {

constexpr size_t kAlignment = 64;

// Offsets of every slot's data, counted from the first; the total last.
std::vector<size_t> data_offsets(const std::vector<SafeTensorSlot>& slots) {
  std::vector<size_t> offsets{0};
  for (const SafeTensorSlot& slot : slots)
    offsets.push_back(checked_add(offsets.back(), byte_size(slot.dtype, element_count(slot.shape)), "the tensor data"));
  return offsets;
}

void check_slots(const std::vector<SafeTensorSlot>& slots) {
  std::set<std::string_view> names{"__metadata__"};
  for (const SafeTensorSlot& slot : slots) {
    if (!names.insert(slot.name).second)
      throw Error(ErrorKind::kUsage, cat("two tensors of one file would be called ", quote(slot.name)));
    if (is_block_type(slot.dtype))
      throw Error(ErrorKind::kUsage, cat(quote(slot.name), ": safetensors cannot hold ", info(slot.dtype).name));
  }
}

std::string make_header(const std::vector<SafeTensorSlot>& slots, const std::map<std::string, std::string>& metadata) {
  check_slots(slots);
  const std::vector<size_t> offsets = data_offsets(slots);
  OrderedJson header = OrderedJson::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  for (size_t i = 0; i < slots.size(); ++i)
    // push_back and not operator[]: the ordered object is a list, and searching it would make this quadratic.
    header.get_ref<OrderedJson::object_t&>().push_back({slots[i].name,
                                                        {{"dtype", info(slots[i].dtype).name},
                                                         {"shape", slots[i].shape},
                                                         {"data_offsets", {offsets[i], offsets[i + 1]}}}});
  std::string text;
  try {
    text = header.dump();
  } catch (const OrderedJson::exception&) {
    throw Error(ErrorKind::kUsage, "a tensor name or a metadata text is not valid UTF-8");
  }
  text.resize(round_up(sizeof(uint64_t) + text.size(), kAlignment) - sizeof(uint64_t), ' ');
  const uint64_t length = text.size();
  char prefix[sizeof length];
  static_assert(std::endian::native == std::endian::little);
  std::memcpy(prefix, &length, sizeof length);
  return std::string(prefix, sizeof prefix) + text;
}

}  // namespace

SafeTensorsWriter::SafeTensorsWriter(const std::filesystem::path& path, std::vector<SafeTensorSlot> slots,
                                     const std::map<std::string, std::string>& metadata)
    : slots_(std::move(slots)), header_(make_header(slots_, metadata)), offsets_(data_offsets(slots_)), file_(path) {
  for (size_t& offset : offsets_) offset = checked_add(offset, header_.size(), "the file");
  file_.reserve(offsets_.back());
  file_.write_at(0, std::as_bytes(std::span(header_)));
}

void SafeTensorsWriter::write(size_t slot, size_t offset, std::span<const std::byte> bytes) {
  const size_t size = offsets_.at(slot + 1) - offsets_.at(slot);
  if (offset > size || bytes.size() > size - offset)
    throw Error(ErrorKind::kUsage, cat("tensor ", quote(slots_[slot].name), " has ", size, " bytes; asked to write ",
                                       bytes.size(), " at offset ", offset));
  file_.write_at(offsets_[slot] + offset, bytes);
  written_ += bytes.size();
}

void SafeTensorsWriter::finish() {
  if (written_ != data_bytes())
    throw Error(ErrorKind::kUsage, cat(written_.load(), " bytes of tensor data were written of ", data_bytes()));
  file_.sync_and_close();
}

}  // namespace nibble
