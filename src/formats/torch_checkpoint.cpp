#include "formats/torch_checkpoint.h"

#include <cstring>

#include "core/checked.h"
#include "core/mapped_file.h"
#include "core/text.h"
#include "formats/damage.h"
#include "formats/torch_tensors.h"
#include "formats/zip.h"

namespace nibble {
namespace {

using Kind = PickleValue::Kind;
using Bytes = std::span<const std::byte>;

constexpr size_t kMaxPickle = size_t{64} << 20;  // 10,000 tensors take about 2 MB

[[noreturn]] void corrupt(const std::string& what, std::string_view advice = kDamaged) {
  throw Error(ErrorKind::kCorrupt, cat(what, "; ", advice));
}

// Beginning of the pickle of 0x1950a86a20f9469cfc6c, which marks files from before PyTorch 1.6.
constexpr std::string_view kLegacyMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);

std::string_view text_of(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

void expect_size(const TorchStorage& storage, size_t found) {
  const size_t wanted = byte_size(storage.dtype, storage.elements);
  if (found != wanted)
    corrupt(cat("storage ", quote(storage.key), " has ", found, " bytes, its ", storage.elements, " elements of ",
                info(storage.dtype).name, " need ", wanted));
}

std::vector<NamedTensor> parse_archive(Bytes bytes, const std::shared_ptr<const void>& owner) {
  std::map<std::string, Bytes, std::less<>> members;
  for (ZipMember& member : parse_zip(bytes)) members.emplace(std::move(member.name), member.bytes);
  // Everything stands below one folder, whose name is free.
  constexpr std::string_view kPickle = "data.pkl";
  std::string folder;
  bool found = false;
  for (const auto& [name, unused] : members)
    if (name.ends_with(kPickle) && name.find('/') == name.size() - kPickle.size() - 1) {
      folder = name.substr(0, name.size() - kPickle.size());
      found = true;
      break;
    }
  if (!found)
    throw Error(ErrorKind::kUnsupported, "a zip archive without data.pkl, which is not a checkpoint of torch.save");
  if (members.contains(folder + "constants.pkl"))
    throw Error(ErrorKind::kUnsupported, "a TorchScript program; save the model's state_dict() with torch.save");
  if (const auto order = members.find(folder + "byteorder");
      order != members.end() && text_of(order->second) != "little")
    throw Error(ErrorKind::kUnsupported, "its numbers are big-endian; save it on a little-endian machine");
  const Bytes description = members.at(folder + std::string(kPickle));
  if (description.size() > kMaxPickle)
    throw Error(ErrorKind::kUnsupported,
                cat("data.pkl has ", description.size(), " bytes, more than the allowed ", kMaxPickle));
  const Pickle pickle = parse_pickle(description, torch_global);
  return torch_state_dict(
      pickle,
      [&](const TorchStorage& storage) {
        const auto member = members.find(cat(folder, "data/", storage.key));
        if (member == members.end()) corrupt(cat("storage ", quote(storage.key), " is missing"));
        expect_size(storage, member->second.size());
        return member->second;
      },
      owner);
}

// Five pickles (the magic number, a version, the machine, the object, the order of the storages), then each storage:
// its element count in eight bytes and its elements.
std::vector<NamedTensor> parse_stream(Bytes bytes, const std::shared_ptr<const void>& owner) {
  size_t at = 0;
  const auto next = [&] {
    Pickle pickle = parse_pickle(bytes.subspan(at, std::min(bytes.size() - at, kMaxPickle)), torch_global);
    at += pickle.size;
    return pickle;
  };
  const Pickle magic = next();
  if (magic[magic.root].text != kLegacyMagic) corrupt("it begins like a checkpoint of torch.save, but is none");
  const Pickle version = next();
  if (version[version.root].kind != Kind::kInteger || version[version.root].integer != 1001)
    throw Error(ErrorKind::kUnsupported, "an unknown version of torch's old file format");
  const Pickle machine = next();
  const auto& facts = machine[machine.root].items;
  for (size_t i = 0; i + 1 < facts.size(); i += 2)
    if (machine[facts[i]].text == "little_endian" && machine[facts[i + 1]].integer != 1)
      throw Error(ErrorKind::kUnsupported, "its numbers are big-endian; save it on a little-endian machine");
  const Pickle pickle = next();
  const Pickle order = next();
  const auto storages = torch_storages(pickle);
  std::map<std::string, Bytes, std::less<>> data;
  if (order[order.root].kind != Kind::kList) corrupt("the order of its storages is no list");
  for (const uint32_t item : order[order.root].items) {
    const std::string& key = order[item].text;
    const auto storage = storages.find(key);
    if (order[item].kind != Kind::kText || storage == storages.end()) corrupt("it lists a storage that no tensor has");
    uint64_t elements = 0;
    if (bytes.size() - at < sizeof elements)
      corrupt(cat("storage ", quote(key), " is missing at file offset ", at), kTruncated);
    std::memcpy(&elements, bytes.data() + at, sizeof elements);
    at += sizeof elements;
    const TorchStorage& described = storage->second;
    if (elements != described.elements)
      corrupt(cat("storage ", quote(key), " has ", elements, " elements, its description says ", described.elements));
    const size_t size = byte_size(described.dtype, described.elements);
    if (size > bytes.size() - at)
      corrupt(
          cat("storage ", quote(key), " needs ", size, " bytes at file offset ", at, ", the file has ", bytes.size()),
          kTruncated);
    data.emplace(key, bytes.subspan(at, size));
    at += size;
  }
  return torch_state_dict(
      pickle,
      [&](const TorchStorage& storage) {
        const auto found = data.find(storage.key);
        if (found == data.end()) corrupt(cat("storage ", quote(storage.key), " is missing"));
        return found->second;
      },
      owner);
}

}  // namespace

std::vector<NamedTensor> parse_torch_checkpoint(Bytes bytes, std::shared_ptr<const void> owner) {
  refuse_lfs_pointer(bytes);
  if (text_of(bytes).starts_with("PK")) return parse_archive(bytes, owner);
  if (text_of(bytes).starts_with("\x80\x02\x8a\x0a")) return parse_stream(bytes, owner);
  throw Error(ErrorKind::kUnsupported,
              "it is no checkpoint of torch.save (neither a zip archive nor its older format)");
}

std::vector<NamedTensor> open_torch_file(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return with_context([&] { return path.string(); }, [&] { return parse_torch_checkpoint(file->bytes(), file); });
}

}  // namespace nibble
