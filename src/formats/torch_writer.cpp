#include "formats/torch_writer.h"

#include <set>

#include "core/checked.h"
#include "core/text.h"
#include "formats/pickle.h"

namespace nibble {
namespace {

constexpr size_t kAlignment = 64;  // torch's own

// Values that every tensor uses, written once.
enum Memo : uint32_t { kRebuild, kRebuildAny, kStorage, kDevice, kOrderedDict, kTypes };

// The class of a storage; nothing for types that came after typed storages, which have untyped ones.
std::string_view storage_class(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "DoubleStorage";
    case DType::kF32:
      return "FloatStorage";
    case DType::kF16:
      return "HalfStorage";
    case DType::kBF16:
      return "BFloat16Storage";
    case DType::kI64:
      return "LongStorage";
    case DType::kI32:
      return "IntStorage";
    case DType::kI16:
      return "ShortStorage";
    case DType::kI8:
      return "CharStorage";
    case DType::kU8:
      return "ByteStorage";
    case DType::kBool:
      return "BoolStorage";
    default:
      return "";
  }
}

std::string_view type_name(DType dtype) {
  switch (dtype) {
    case DType::kF8E4M3:
      return "float8_e4m3fn";
    case DType::kF8E5M2:
      return "float8_e5m2";
    case DType::kU64:
      return "uint64";
    case DType::kU32:
      return "uint32";
    default:
      return "uint16";
  }
}

class StateDict {
 public:
  StateDict() {
    ordered_dict();
    pickle_.opcode('(');
  }

  void add(const TensorSlot& slot, const std::string& name, size_t key) {
    if (find_invalid_utf8(name) != std::string::npos)
      throw Error(ErrorKind::kUsage, cat("the name ", quote(name), " is not valid UTF-8"));
    const std::string_view storage = storage_class(slot.dtype);
    const size_t count = element_count(slot.shape);
    pickle_.text(name);
    global(storage.empty() ? kRebuildAny : kRebuild, "torch._utils",
           storage.empty() ? "_rebuild_tensor_v3" : "_rebuild_tensor_v2");
    pickle_.opcode('(');
    pickle_.opcode('(');
    text(kStorage, "storage");
    if (storage.empty())
      global(kTypes, "torch.storage", "UntypedStorage");
    else
      global(kTypes + 1 + static_cast<uint32_t>(slot.dtype), "torch", storage);
    pickle_.text(std::to_string(key));
    text(kDevice, "cpu");
    pickle_.integer(storage.empty() ? byte_size(slot.dtype, count) : count);
    pickle_.opcode('t');
    pickle_.opcode('Q');
    pickle_.integer(0);  // offset
    pickle_.tuple(slot.shape);
    Shape strides(slot.shape.size(), 1);
    for (size_t i = strides.size(); i > 1; --i)
      strides[i - 2] = strides[i - 1] * std::max<size_t>(slot.shape[i - 1], 1);
    pickle_.tuple(strides);
    pickle_.boolean(false);  // requires_grad
    ordered_dict();          // hooks
    if (storage.empty()) global(kTypes + 1 + static_cast<uint32_t>(slot.dtype), "torch", type_name(slot.dtype));
    pickle_.opcode('t');
    pickle_.opcode('R');
  }

  std::string finish() {
    pickle_.opcode('u');
    return pickle_.finish();
  }

 private:
  void ordered_dict() {
    global(kOrderedDict, "collections", "OrderedDict");
    pickle_.opcode(')');
    pickle_.opcode('R');
  }
  void global(uint32_t slot, std::string_view module, std::string_view name) {
    if (!kept_.insert(slot).second) return pickle_.recall(slot);
    pickle_.global(module, name);
    pickle_.remember(slot);
  }
  void text(uint32_t slot, std::string_view text) {
    if (!kept_.insert(slot).second) return pickle_.recall(slot);
    pickle_.text(text);
    pickle_.remember(slot);
  }

  PickleWriter pickle_;
  std::set<uint32_t> kept_;
};

}  // namespace

TorchWriter::TorchWriter(const std::filesystem::path& path, const std::vector<TensorSlot>& slots,
                         const std::vector<std::pair<std::string, size_t>>& aliases) {
  const std::string folder = path.stem().string() + "/";
  StateDict description;
  std::set<std::string_view> names;
  const auto add = [&](const std::string& name, size_t i) {
    if (!names.insert(name).second)
      throw Error(ErrorKind::kUsage, cat("two tensors of one file would be called ", quote(name)));
    if (is_block_type(slots[i].dtype))
      throw Error(ErrorKind::kUsage, cat(quote(name), ": torch cannot hold ", info(slots[i].dtype).name));
    description.add(slots[i], name, i);
  };
  std::vector<ZipSlot> members;
  for (size_t i = 0; i < slots.size(); ++i) {
    add(slots[i].name, i);
    const size_t bytes = byte_size(slots[i].dtype, element_count(slots[i].shape));
    data_bytes_ = checked_add(data_bytes_, bytes, "the model");
    members.push_back({cat(folder, "data/", i), bytes, kAlignment});
  }
  for (const auto& [name, slot] : aliases) add(name, slot);
  // Readers take the archive's folder from its first member, wherever the directory puts it.
  for (auto& [name, text] : std::vector<std::pair<std::string, std::string>>{
           {"data.pkl", description.finish()}, {"byteorder", "little"}, {"version", "3\n"}}) {
    texts_.emplace_back(members.size(), text);
    members.push_back({folder + name, text.size(), 1});
  }
  zip_ = std::make_unique<ZipWriter>(path, std::move(members));
}

void TorchWriter::finish() {
  for (const auto& [member, text] : texts_) zip_->write(member, 0, std::as_bytes(std::span(text)));
  zip_->finish();
}

}  // namespace nibble
