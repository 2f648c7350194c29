#include "formats/onnx_model.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>

#include "core/checked.h"
#include "core/error.h"
#include "core/text.h"
#include "formats/damage.h"
#include "formats/onnx_graph.h"
#include "formats/onnx_wire.h"

namespace nibble {
namespace {

struct TypeInfo {
  std::string_view name;
  size_t bits;
};

// In the order of TensorProto.DataType.
constexpr std::array<TypeInfo, 27> kTypes = {
    {{"UNDEFINED", 0},      {"FLOAT", 32},    {"UINT8", 8},        {"INT8", 8},           {"UINT16", 16},
     {"INT16", 16},         {"INT32", 32},    {"INT64", 64},       {"STRING", 0},         {"BOOL", 8},
     {"FLOAT16", 16},       {"DOUBLE", 64},   {"UINT32", 32},      {"UINT64", 64},        {"COMPLEX64", 64},
     {"COMPLEX128", 128},   {"BFLOAT16", 16}, {"FLOAT8E4M3FN", 8}, {"FLOAT8E4M3FNUZ", 8}, {"FLOAT8E5M2", 8},
     {"FLOAT8E5M2FNUZ", 8}, {"UINT4", 4},     {"INT4", 4},         {"FLOAT4E2M1", 4},     {"FLOAT8E8M0", 8},
     {"UINT2", 2},          {"INT2", 2}}};

Shape shape_of(const onnx::TensorProto& tensor) {
  Shape shape;
  for (const int64_t extent : tensor.dims()) shape.push_back(checked_cast<size_t>(extent, "an extent"));
  return shape;
}

// Bytes that the type and shape ask for.
size_t stored_size(int type, const Shape& shape) {
  const size_t bits = onnx_bits(type);
  if (bits == 0)
    throw Error(ErrorKind::kUnsupported,
                cat("has the element type ", onnx_type_name(type), ", which nibble cannot move"));
  return ceil_div(checked_mul(element_count(shape), bits, "size"), 8);
}

void expect_size(size_t found, size_t wanted) {
  if (found != wanted)
    throw Error(ErrorKind::kCorrupt,
                cat("holds ", found, " bytes, but its type and shape need ", wanted, "; ", kDamaged));
}

template <class Stored, class Values>
std::vector<std::byte> pack(const Values& values) {
  std::vector<std::byte> bytes(static_cast<size_t>(values.size()) * sizeof(Stored));
  size_t at = 0;
  for (const auto value : values) {
    const auto stored = static_cast<Stored>(value);
    std::memcpy(bytes.data() + at, &stored, sizeof stored);
    at += sizeof stored;
  }
  return bytes;
}

// The fields that hold values one by one.
std::vector<std::byte> typed_values(const onnx::TensorProto& tensor) {
  switch (tensor.data_type()) {
    case 1:
    case 14:
      return pack<float>(tensor.float_data());
    case 7:
      return pack<int64_t>(tensor.int64_data());
    case 11:
    case 15:
      return pack<double>(tensor.double_data());
    case 12:
      return pack<uint32_t>(tensor.uint64_data());
    case 13:
      return pack<uint64_t>(tensor.uint64_data());
    default:
      break;
  }
  const size_t bits = onnx_bits(tensor.data_type());
  return bits == 32   ? pack<uint32_t>(tensor.int32_data())
         : bits == 16 ? pack<uint16_t>(tensor.int32_data())
                      : pack<uint8_t>(tensor.int32_data());
}

size_t number(const std::string& text, std::string_view what) {
  size_t value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size())
    throw Error(ErrorKind::kCorrupt, cat("its external ", what, " is ", quote(text), ", not a number of bytes"));
  return value;
}

}  // namespace

size_t onnx_bits(int type) {
  return type > 0 && static_cast<size_t>(type) < kTypes.size() ? kTypes[static_cast<size_t>(type)].bits : 0;
}

std::string onnx_type_name(int type) {
  if (type >= 0 && static_cast<size_t>(type) < kTypes.size())
    return std::string(kTypes[static_cast<size_t>(type)].name);
  return cat("type ", type);
}

std::optional<DType> onnx_dtype(int type) {
  switch (type) {
    case onnx_type::kFloat:
      return DType::kF32;
    case onnx_type::kFloat16:
      return DType::kF16;
    case onnx_type::kBFloat16:
      return DType::kBF16;
    case onnx_type::kUint8:
      return DType::kU8;
    case onnx_type::kInt8:
      return DType::kI8;
    case onnx_type::kInt64:
      return DType::kI64;
    case 11:
      return DType::kF64;
    default:
      return std::nullopt;
  }
}

int onnx_type_of(DType dtype) {
  return dtype == DType::kF16 ? onnx_type::kFloat16 : dtype == DType::kBF16 ? onnx_type::kBFloat16 : onnx_type::kFloat;
}

std::string onnx_node_name(const onnx::NodeProto& node) {
  if (!node.name().empty()) return node.name();
  return node.output_size() > 0 ? node.output(0) : cat("a ", node.op_type());
}

const onnx::AttributeProto* find_attribute(const onnx::NodeProto& node, std::string_view name) {
  const auto found = std::find_if(node.attribute().begin(), node.attribute().end(),
                                  [&](const onnx::AttributeProto& attribute) { return attribute.name() == name; });
  return found == node.attribute().end() ? nullptr : &*found;
}

int64_t int_attribute(const onnx::NodeProto& node, std::string_view name, int64_t absent) {
  const onnx::AttributeProto* attribute = find_attribute(node, name);
  return attribute ? attribute->i() : absent;
}

float float_attribute(const onnx::NodeProto& node, std::string_view name, float absent) {
  const onnx::AttributeProto* attribute = find_attribute(node, name);
  return attribute ? attribute->f() : absent;
}

void inline_contents(onnx::TensorProto& tensor, const OnnxModel& model) {
  if (tensor.data_location() != 1 && !tensor.has_mapped_length()) return;
  const OnnxTensor contents = model.tensor(tensor);
  tensor.set_raw_data(reinterpret_cast<const char*>(contents.bytes.data()), contents.bytes.size());
  tensor.clear_mapped_offset();
  tensor.clear_mapped_length();
  tensor.clear_external_data();
  tensor.clear_data_location();
}

void inline_contents(onnx::NodeProto& node, const OnnxModel& model) {
  for (onnx::AttributeProto& attribute : *node.mutable_attribute()) {
    if (attribute.has_t()) inline_contents(*attribute.mutable_t(), model);
    for (onnx::TensorProto& tensor : *attribute.mutable_tensors()) inline_contents(tensor, model);
    const auto inside = [&](onnx::GraphProto& graph) {
      for (onnx::TensorProto& tensor : *graph.mutable_initializer()) inline_contents(tensor, model);
      for (onnx::NodeProto& inner : *graph.mutable_node()) inline_contents(inner, model);
    };
    if (attribute.has_g()) inside(*attribute.mutable_g());
    for (onnx::GraphProto& graph : *attribute.mutable_graphs()) inside(graph);
  }
}

std::shared_ptr<const OnnxModel> OnnxModel::open(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return with_context([&] { return path.string(); },
                      [&] {
                        auto model = std::shared_ptr<OnnxModel>(new OnnxModel);
                        model->path_ = path;
                        model->folder_ = path.has_parent_path() ? path.parent_path() : ".";
                        model->mapped_ = true;
                        model->bytes_ = file->bytes();
                        model->owner_ = file;
                        model->check();
                        return model;
                      });
}

std::shared_ptr<const OnnxModel> OnnxModel::parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                                                  const std::filesystem::path& folder) {
  auto model = std::shared_ptr<OnnxModel>(new OnnxModel);
  model->folder_ = folder;
  model->bytes_ = bytes;
  model->owner_ = std::move(owner);
  model->check();
  return model;
}

void OnnxModel::check() const {
  auto& proto = const_cast<onnx::ModelProto&>(proto_);  // called while the object is made
  refuse_lfs_pointer(bytes_);
  const std::string graph_bytes = without_tensor_data(bytes_);
  if (graph_bytes.size() > static_cast<size_t>(std::numeric_limits<int>::max()))
    throw Error(ErrorKind::kUnsupported, "the graph alone is larger than 2 GB");
  if (!proto.ParseFromArray(graph_bytes.data(), static_cast<int>(graph_bytes.size())))
    throw Error(ErrorKind::kCorrupt, cat("not an ONNX model, or ", kDamaged));
  if (!proto.has_graph() || proto.graph().node_size() == 0)
    throw Error(ErrorKind::kUnsupported, "no graph in it: not an ONNX model");
  if (proto.opset_import_size() == 0)
    throw Error(ErrorKind::kCorrupt, "it imports no operator set, so its nodes mean nothing");
  for (const onnx::TensorProto& initializer : graph().initializer()) {
    if (initializer.name().empty()) throw Error(ErrorKind::kCorrupt, "an initializer has no name");
    if (initializer.data_type() != onnx_type::kString) tensor(initializer);
  }
  OnnxGraphIndex index(graph());
}

int64_t OnnxModel::opset(std::string_view domain) const {
  for (const onnx::OperatorSetIdProto& set : proto_.opset_import()) {
    const std::string& name = set.domain();
    if (name == domain || (domain.empty() && name == "ai.onnx")) return set.version();
  }
  return 0;
}

std::shared_ptr<const MappedFile> OnnxModel::external(const std::string& location) const {
  const std::filesystem::path path(location);
  if (location.empty() || path.is_absolute() || std::find(path.begin(), path.end(), "..") != path.end())
    throw Error(ErrorKind::kCorrupt,
                cat("its data is said to be at ", quote(location),
                    "; only files in the model's own folder are read, so this model is not to be trusted"));
  if (folder_.empty()) throw Error(ErrorKind::kIo, cat("its data is in another file, ", location));
  const std::lock_guard lock(mutex_);
  std::shared_ptr<const MappedFile>& file = external_[location];
  if (!file) file = with_context([&] { return "external data"; }, [&] { return MappedFile::open(folder_ / path); });
  return file;
}

OnnxTensor OnnxModel::tensor(const onnx::TensorProto& tensor) const {
  return with_context(
      [&] { return cat("tensor ", tensor.name().empty() ? "without a name" : tensor.name()); },
      [&] {
        OnnxTensor out{tensor.data_type(), shape_of(tensor), {}, owner_, mapped_};
        const size_t size = stored_size(out.type, out.shape);
        if (tensor.data_location() == 1) {
          std::string location, offset = "0", length;
          for (const onnx::StringStringEntryProto& entry : tensor.external_data()) {
            if (entry.key() == "location") location = entry.value();
            if (entry.key() == "offset") offset = entry.value();
            if (entry.key() == "length") length = entry.value();
          }
          const auto file = external(location);
          const size_t begin = number(offset, "offset"), held = length.empty() ? size : number(length, "length");
          expect_size(held, size);
          if (begin > file->bytes().size() || size > file->bytes().size() - begin)
            throw Error(ErrorKind::kCorrupt, cat("needs bytes ", begin, " to ", begin + size, " of ", location,
                                                 ", which has ", file->bytes().size(), "; ", kTruncated));
          out.bytes = file->bytes().subspan(begin, size);
          out.owner = file;
          out.mapped = true;
        } else if (tensor.has_mapped_length()) {
          expect_size(tensor.mapped_length(), size);
          out.bytes = bytes_.subspan(tensor.mapped_offset(), size);
        } else {
          const auto values = std::make_shared<std::vector<std::byte>>();
          if (tensor.has_raw_data()) {
            const auto raw = std::as_bytes(std::span(tensor.raw_data()));
            values->assign(raw.begin(), raw.end());
          } else {
            *values = typed_values(tensor);
          }
          expect_size(values->size(), size);
          out.bytes = *values;
          out.owner = values;
          out.mapped = false;
        }
        return out;
      });
}

std::set<std::string> OnnxModel::external_files() const {
  std::set<std::string> files;
  for (const onnx::TensorProto& tensor : graph().initializer())
    if (tensor.data_location() == 1)
      for (const onnx::StringStringEntryProto& entry : tensor.external_data())
        if (entry.key() == "location") files.insert(entry.value());
  return files;
}

}  // namespace nibble
