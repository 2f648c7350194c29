#include "formats/imatrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/files.h"
#include "core/mapped_file.h"
#include "core/text.h"
#include "formats/damage.h"
#include "formats/gguf.h"
#include "formats/gguf_writer.h"

namespace nibble {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";

std::vector<float> floats_of(const TensorView& view) {
  std::vector<float> values(view.bytes.size() / sizeof(float));
  std::memcpy(values.data(), view.bytes.data(), values.size() * sizeof(float));
  return values;
}

void check_entry(const std::string& name, const Imatrix::Entry& entry) {
  if (entry.sums.empty()) throw Error(ErrorKind::kCorrupt, cat("entry ", quote(name), " is empty"));
  const bool good =
      std::isfinite(entry.tokens) && entry.tokens >= 0 &&
      std::all_of(entry.sums.begin(), entry.sums.end(), [](float x) { return std::isfinite(x) && x >= 0; });
  if (!good)
    throw Error(
        ErrorKind::kCorrupt,
        cat("entry ", quote(name), " holds a sum of squares or a count that is negative or no number; ", kDamaged));
}

Imatrix from_gguf(const Gguf& gguf) {
  if (const auto type = gguf.find_string("general.type"); type != "imatrix")
    throw Error(ErrorKind::kUsage, cat("this GGUF is a ", type.value_or("model"), " and no file of statistics"));
  Imatrix imatrix;
  if (const auto* datasets = gguf.find_strings("imatrix.datasets"))
    imatrix.datasets.assign(datasets->begin(), datasets->end());
  imatrix.chunks = checked_cast<uint32_t>(gguf.find_unsigned("imatrix.chunk_count").value_or(0), "imatrix.chunk_count");
  imatrix.chunk_size =
      checked_cast<uint32_t>(gguf.find_unsigned("imatrix.chunk_size").value_or(0), "imatrix.chunk_size");
  std::map<std::string_view, const GgufTensor*> by_name;
  for (const GgufTensor& tensor : gguf.tensors()) by_name.emplace(tensor.name, &tensor);
  for (const GgufTensor& tensor : gguf.tensors()) {
    if (!tensor.name.ends_with(kSums)) continue;
    const std::string name = tensor.name.substr(0, tensor.name.size() - kSums.size());
    const auto counts = by_name.find(name + std::string(kCounts));
    if (counts == by_name.end())
      throw Error(ErrorKind::kCorrupt, cat("tensor ", quote(tensor.name), " has no counts beside it; ", kDamaged));
    if (tensor.view.dtype != DType::kF32 || counts->second->view.dtype != DType::kF32)
      throw Error(ErrorKind::kUnsupported, cat("the sums or counts of ", quote(name), " are not F32"));
    const std::vector<float> tokens = floats_of(counts->second->view);
    if (tokens.size() != 1)
      throw Error(ErrorKind::kUnsupported,
                  cat("entry ", quote(name), " is of ", tokens.size(), " experts; only plain matrices are supported"));
    Imatrix::Entry entry{floats_of(tensor.view), double{tokens[0]}};
    check_entry(name, entry);
    imatrix.entries.emplace(name, std::move(entry));
  }
  return imatrix;
}

// The older format: a count of entries; of each the name's length, the name, calls, values and the values, which are
// means times calls; then optionally the number of chunks and the data set's name.
class LegacyReader {
 public:
  explicit LegacyReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  Imatrix read() {
    Imatrix imatrix;
    const size_t count = number("the number of entries");
    for (size_t i = 0; i < count; ++i) {
      const std::string name = text("an entry's name");
      if (name.empty() || find_invalid_utf8(name) != std::string_view::npos)
        throw Error(ErrorKind::kCorrupt, cat("the name of entry ", i, " is ", quote(name), "; ", kDamaged));
      const size_t calls = number("a number of calls"), values = number("a number of values");
      const auto data = take(checked_mul(values, sizeof(float), "an entry"), "an entry's values");
      Imatrix::Entry entry{std::vector<float>(values), static_cast<double>(calls)};
      if (values > 0) std::memcpy(entry.sums.data(), data.data(), data.size());
      check_entry(name, entry);
      if (!imatrix.entries.emplace(name, std::move(entry)).second)
        throw Error(ErrorKind::kCorrupt, cat("entry ", quote(name), " is there twice; ", kDamaged));
    }
    if (at_ == bytes_.size()) return imatrix;
    imatrix.chunks = static_cast<uint32_t>(number("the number of chunks"));
    if (at_ < bytes_.size()) imatrix.datasets.push_back(text("the data set's name"));
    if (at_ != bytes_.size())
      throw Error(ErrorKind::kCorrupt, cat(bytes_.size() - at_, " bytes follow the last entry; ", kDamaged));
    return imatrix;
  }

 private:
  std::span<const std::byte> take(size_t size, const char* what) {
    if (size > bytes_.size() - at_)
      throw Error(ErrorKind::kCorrupt, cat(what, " at offset ", at_, " needs ", size, " bytes, ", bytes_.size() - at_,
                                           " are left; ", kTruncated));
    at_ += size;
    return bytes_.subspan(at_ - size, size);
  }
  size_t number(const char* what) {
    int32_t value = 0;
    const size_t at = at_;
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    if (value < 0) throw Error(ErrorKind::kCorrupt, cat(what, " at offset ", at, " is ", value, "; ", kDamaged));
    return static_cast<size_t>(value);
  }
  std::string text(const char* what) {
    const auto bytes = take(number(what), what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  std::span<const std::byte> bytes_;
  size_t at_ = 0;
};

Imatrix parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  Imatrix imatrix =
      text.starts_with("GGUF") ? from_gguf(*Gguf::parse(bytes, std::move(owner))) : LegacyReader(bytes).read();
  if (imatrix.entries.empty()) throw Error(ErrorKind::kCorrupt, "there are no statistics in the file");
  return imatrix;
}

}  // namespace

Imatrix read_imatrix(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return with_context([&] { return path.string(); }, [&] { return parse(file->bytes(), file); });
}

Imatrix parse_imatrix(std::span<const std::byte> bytes) { return parse(bytes, nullptr); }

void write_imatrix(const Imatrix& imatrix, const std::filesystem::path& path, bool force) {
  StagedOutput output(path, /*folder=*/false, force);
  GgufMetadata metadata;
  metadata.set_string("general.type", "imatrix");
  metadata.set_strings("imatrix.datasets", imatrix.datasets);
  metadata.set_u32("imatrix.chunk_count", imatrix.chunks);
  metadata.set_u32("imatrix.chunk_size", imatrix.chunk_size);
  std::vector<GgufSlot> slots;
  for (const auto& [name, entry] : imatrix.entries) {
    slots.push_back({name + std::string(kSums), DType::kF32, {1, entry.sums.size()}});
    slots.push_back({name + std::string(kCounts), DType::kF32, {1, 1}});
  }
  GgufWriter writer(output.path(), metadata, std::move(slots));
  size_t slot = 0;
  for (const auto& [name, entry] : imatrix.entries) {
    const auto tokens = static_cast<float>(entry.tokens);
    writer.write(slot++, 0, std::as_bytes(std::span(entry.sums)));
    writer.write(slot++, 0, std::as_bytes(std::span(&tokens, 1)));
  }
  writer.finish();
  output.commit();
}

void merge(Imatrix& into, const Imatrix& other) {
  for (const auto& [name, entry] : other.entries) {
    const auto [at, added] = into.entries.emplace(name, entry);
    if (added) continue;
    if (at->second.sums.size() != entry.sums.size())
      throw Error(ErrorKind::kUsage, cat("entry ", name, " has ", at->second.sums.size(), " columns in one file and ",
                                         entry.sums.size(), " in the other: they are of different models"));
    for (size_t c = 0; c < entry.sums.size(); ++c) at->second.sums[c] += entry.sums[c];
    at->second.tokens += entry.tokens;
  }
  for (const std::string& name : other.datasets)
    if (std::find(into.datasets.begin(), into.datasets.end(), name) == into.datasets.end())
      into.datasets.push_back(name);
  into.chunks += other.chunks;
  into.chunk_size = std::max(into.chunk_size, other.chunk_size);
}

}  // namespace nibble
