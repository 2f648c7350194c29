#include "formats/onnx_writer.h"

#include <algorithm>
#include <limits>

#include "core/checked.h"
#include "core/error.h"
#include "core/mapped_file.h"

namespace nibble {
namespace {

// Large tensors start on a page, so that readers can map them ("External Data" of the ONNX project).
constexpr size_t kPage = 4096, kLarge = 65536, kAlignment = 64;
constexpr size_t kSmall = 1024;  // stays in the graph
constexpr size_t kChunk = size_t{8} << 20;

void clear_contents(onnx::TensorProto& tensor) {
  tensor.clear_mapped_offset();
  tensor.clear_mapped_length();
  tensor.clear_raw_data();
  tensor.clear_external_data();
  tensor.clear_data_location();
  tensor.clear_float_data();
  tensor.clear_int32_data();
  tensor.clear_int64_data();
  tensor.clear_double_data();
  tensor.clear_uint64_data();
}

void set_raw(onnx::TensorProto& tensor, std::span<const std::byte> bytes) {
  clear_contents(tensor);
  tensor.set_raw_data(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// Contents of tensors that only our own parser can find become plain ones again.
void restore(onnx::TensorProto& tensor, const OnnxModel& source) {
  if (tensor.has_mapped_length()) set_raw(tensor, source.tensor(tensor).bytes);
}

void restore(onnx::GraphProto& graph, const OnnxModel& source);

void restore(onnx::NodeProto& node, const OnnxModel& source) {
  for (onnx::AttributeProto& attribute : *node.mutable_attribute()) {
    if (attribute.has_t()) restore(*attribute.mutable_t(), source);
    for (onnx::TensorProto& tensor : *attribute.mutable_tensors()) restore(tensor, source);
    if (attribute.has_g()) restore(*attribute.mutable_g(), source);
    for (onnx::GraphProto& graph : *attribute.mutable_graphs()) restore(graph, source);
  }
}

void restore(onnx::GraphProto& graph, const OnnxModel& source) {
  for (onnx::NodeProto& node : *graph.mutable_node()) restore(node, source);
  for (onnx::TensorProto& tensor : *graph.mutable_initializer()) restore(tensor, source);
}

void set_external(onnx::TensorProto& tensor, const std::string& file, size_t offset, size_t length) {
  clear_contents(tensor);
  tensor.set_data_location(1);
  const auto add = [&](const char* key, const std::string& value) {
    onnx::StringStringEntryProto& entry = *tensor.add_external_data();
    entry.set_key(key);
    entry.set_value(value);
  };
  add("location", file);
  add("offset", cat(offset));
  add("length", cat(length));
}

}  // namespace

OnnxWriter::OnnxWriter(std::filesystem::path folder, std::string file, std::vector<size_t> slots, size_t embed_bytes)
    : folder_(std::move(folder)), file_(std::move(file)), embed_bytes_(embed_bytes) {
  for (const size_t bytes : slots) {
    const size_t offset = append(bytes);
    slots_.push_back({offset, bytes});
  }
  data_ = std::make_unique<OutputFile>(folder_ / (file_ + ".data"));
  if (end_ > 0) data_->reserve(end_);
}

size_t OnnxWriter::append(size_t bytes) {
  const size_t offset = round_up(end_, bytes >= kLarge ? kPage : kAlignment);
  end_ = offset + bytes;
  return offset;
}

void OnnxWriter::write(size_t slot, size_t offset, std::span<const std::byte> bytes) {
  data_->write_at(slots_[slot].offset + offset, bytes);
  if (unsynced_.fetch_add(bytes.size()) + bytes.size() > 4 * kChunk) {
    unsynced_ = 0;
    data_->start_writeback();
  }
}

void OnnxWriter::finish(onnx::ModelProto& model, const std::map<std::string, size_t, std::less<>>& slot_of,
                        const OnnxModel& source) {
  const std::string data_file = file_ + ".data";
  for (onnx::NodeProto& node : *model.mutable_graph()->mutable_node()) restore(node, source);
  for (onnx::FunctionProto& function : *model.mutable_functions())
    for (onnx::NodeProto& node : *function.mutable_node()) restore(node, source);
  std::vector<std::pair<onnx::TensorProto*, Slot>> placed;
  for (onnx::TensorProto& tensor : *model.mutable_graph()->mutable_initializer()) {
    if (const auto found = slot_of.find(tensor.name()); found != slot_of.end()) {
      placed.emplace_back(&tensor, slots_[found->second]);
      continue;
    }
    if (tensor.data_type() == onnx_type::kString) continue;
    const OnnxTensor contents = source.tensor(tensor);
    if (contents.bytes.size() < kSmall) {
      set_raw(tensor, contents.bytes);
      continue;
    }
    const size_t offset = append(contents.bytes.size());
    for (size_t at = 0; at < contents.bytes.size(); at += kChunk) {
      const auto part = contents.bytes.subspan(at, std::min(kChunk, contents.bytes.size() - at));
      data_->write_at(offset + at, part);
      if (contents.mapped) release_pages(part);
    }
    placed.emplace_back(&tensor, Slot{offset, contents.bytes.size()});
  }
  data_->sync_and_close();
  const std::filesystem::path data_path = folder_ / data_file;
  const bool embed = end_ <= embed_bytes_;
  if (embed && end_ > 0) {
    const auto mapped = MappedFile::open(data_path);
    for (const auto& [tensor, slot] : placed) set_raw(*tensor, mapped->bytes().subspan(slot.offset, slot.bytes));
  } else {
    for (const auto& [tensor, slot] : placed) set_external(*tensor, data_file, slot.offset, slot.bytes);
  }
  if (embed) std::filesystem::remove(data_path);
  if (model.ByteSizeLong() > static_cast<size_t>(std::numeric_limits<int>::max()))
    throw Error(ErrorKind::kUnsupported,
                "the graph without its initializers is larger than 2 GB, the most that ONNX allows");
  write_text_file(folder_ / file_, model.SerializeAsString());
}

}  // namespace nibble
