#include "formats/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <set>

#include "core/checked.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/text.h"
#include "formats/damage.h"

namespace nibble {
namespace {

constexpr size_t kMaxHeader = 100'000'000;  // the reference implementation's limit

[[noreturn]] void corrupt(const std::string& what, std::string_view advice = kDamaged) {
  throw Error(ErrorKind::kCorrupt, cat(what, "; ", advice));
}

std::optional<DType> find_dtype(std::string_view name) {
  for (size_t i = 0; i <= static_cast<size_t>(DType::kBool); ++i)
    if (info(static_cast<DType>(i)).name == name) return static_cast<DType>(i);
  return std::nullopt;
}

// One header entry as written.
struct Entry {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<size_t>> shape;
  std::optional<std::vector<size_t>> offsets;
};

// Collects the entries. A document tree would keep the last of two equal keys without a word, and cost more than the
// result.
class HeaderSax final : public nlohmann::json_sax<Json> {
 public:
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;

  bool null() override { return other("null"); }
  bool boolean(bool) override { return other("a boolean"); }
  bool number_integer(int64_t value) override { return other(cat("the number ", value)); }
  bool number_float(double, const std::string& text) override { return other(cat("the number ", text.substr(0, 40))); }
  bool binary(Json::binary_t&) override { return other("binary data"); }

  bool number_unsigned(uint64_t value) override {
    if (skipping()) return true;
    std::vector<size_t>* list = open_list();
    if (!list) return other(cat("the number ", value));
    list->push_back(checked_cast<size_t>(value, "a number of the header"));
    return true;
  }

  bool string(std::string& text) override {
    if (skipping()) return true;
    if (depth_ == 2 && in_metadata_) {
      metadata[metadata_key_] = std::move(text);
    } else if (depth_ == 2 && field_ == Field::kDType) {
      entries.back().dtype = std::move(text);
    } else {
      return other(cat("the string ", quote(text)));
    }
    return true;
  }

  bool start_object(size_t) override {
    if (depth_ >= 2 && !skipping()) return other("an object");
    if (depth_ == 1 && !in_metadata_) entries.push_back({.name = name_, .dtype = {}, .shape = {}, .offsets = {}});
    if (depth_ == 1) field_seen_ = {};
    ++depth_;
    return true;
  }

  bool start_array(size_t) override {
    if (!skipping()) {
      if (depth_ != 2 || in_metadata_ || field_ == Field::kDType) return other("an array");
      (field_ == Field::kShape ? entries.back().shape : entries.back().offsets).emplace();
    }
    ++depth_;
    return true;
  }

  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(std::string& text) override {
    if (depth_ == 1) {
      if (!names_.insert(text).second) corrupt(cat("the header names ", quote(text), " twice"));
      name_ = text;
      in_metadata_ = text == "__metadata__";
    } else if (depth_ == 2 && in_metadata_) {
      if (metadata.contains(text)) corrupt(cat("__metadata__ has the key ", quote(text), " twice"));
      metadata_key_ = text;
    } else if (depth_ == 2) {
      // Other fields are skipped, as the reference implementation does.
      field_ = text == "dtype"          ? Field::kDType
               : text == "shape"        ? Field::kShape
               : text == "data_offsets" ? Field::kOffsets
                                        : Field::kOther;
      bool& seen = field_seen_[static_cast<size_t>(field_)];
      if (seen && field_ != Field::kOther) corrupt(cat(quote(name_), " has the field ", quote(text), " twice"));
      seen = true;
    }
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    corrupt(cat("the header is not valid JSON at file offset ", sizeof(uint64_t) + position));
  }

 private:
  enum class Field { kDType, kShape, kOffsets, kOther };

  bool skipping() const { return depth_ >= 2 && !in_metadata_ && field_ == Field::kOther; }

  std::vector<size_t>* open_list() {
    if (depth_ != 3 || in_metadata_) return nullptr;
    auto& list = field_ == Field::kShape ? entries.back().shape : entries.back().offsets;
    return &*list;
  }

  bool close() {
    --depth_;
    return true;
  }

  // A value where the format has no place for it.
  bool other(const std::string& found) const {
    if (skipping()) return true;
    if (depth_ == 0) corrupt(cat("the header should be a JSON object, found ", found));
    if (in_metadata_ && depth_ == 2) corrupt(cat("__metadata__ should hold strings only, found ", found));
    if (depth_ == 1) corrupt(cat(quote(name_), " should be described by a JSON object, found ", found));
    static constexpr const char* kFields[] = {"'dtype' should be a string", "'shape' should be a list of sizes",
                                              "'data_offsets' should be a list of two offsets", ""};
    corrupt(cat(quote(name_), ": ", kFields[static_cast<size_t>(field_)], ", found ", found));
  }

  size_t depth_ = 0;  // open objects and arrays: 1 the header, 2 an entry, 3 a list within it
  bool in_metadata_ = false;
  Field field_ = Field::kDType;
  std::array<bool, 4> field_seen_{};
  std::string name_, metadata_key_;
  std::set<std::string> names_;
};

// `data`: all bytes behind the header, which start at `data_start` in the file.
SafeTensor make_tensor(const Entry& entry, std::span<const std::byte> data, size_t data_start,
                       const std::shared_ptr<const void>& owner) {
  if (!entry.dtype || !entry.shape || !entry.offsets)
    corrupt(cat("no ", !entry.dtype ? "dtype" : !entry.shape ? "shape" : "data_offsets", " is given"));
  const std::optional<DType> dtype = find_dtype(*entry.dtype);
  if (!dtype) throw Error(ErrorKind::kUnsupported, cat("element type ", quote(*entry.dtype), " is not supported"));
  if (entry.offsets->size() != 2) corrupt(cat("data_offsets has ", entry.offsets->size(), " numbers and not 2"));
  const size_t begin = (*entry.offsets)[0], end = (*entry.offsets)[1];
  if (begin > end) corrupt(cat("its data ends (", end, ") before it begins (", begin, ")"));
  const size_t needed = byte_size(*dtype, element_count(*entry.shape));
  if (end - begin != needed)
    corrupt(cat("its ", *entry.dtype, " elements need ", needed, " bytes, data_offsets gives ", end - begin));
  if (end > data.size())
    corrupt(cat("its data ends at file offset ", checked_add(data_start, end, "data_offsets"), ", the file has ",
                data_start + data.size(), " bytes"),
            kTruncated);
  return {entry.name, {*dtype, *entry.shape, data.subspan(begin, needed), owner}};
}

// The sorted tensors must tile the data: neither holes nor overlaps, nothing behind the last.
void check_tiling(const std::vector<SafeTensor>& tensors, std::span<const std::byte> data, size_t data_start) {
  const std::byte* expected = data.data();
  for (const SafeTensor& tensor : tensors) {
    const std::byte* begin = tensor.view.bytes.data();
    if (begin != expected)
      corrupt(cat("tensor ", quote(tensor.name), ": its data begins at file offset ",
                  data_start + static_cast<size_t>(begin - data.data()), ", the tensor before it ends at ",
                  data_start + static_cast<size_t>(expected - data.data())));
    expected = begin + tensor.view.bytes.size();
  }
  const auto used = static_cast<size_t>(expected - data.data());
  if (used != data.size())
    corrupt(cat("the last tensor ends at file offset ", data_start + used, ", the file has ", data_start + data.size(),
                " bytes"));
}

}  // namespace

SafeTensorsFile SafeTensorsFile::parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  refuse_lfs_pointer(bytes);
  uint64_t header_size = 0;
  if (bytes.size() < sizeof header_size)
    corrupt(cat("the file has ", bytes.size(), " bytes, too few for a safetensors header"), kTruncated);
  static_assert(std::endian::native == std::endian::little);
  std::memcpy(&header_size, bytes.data(), sizeof header_size);
  if (header_size > kMaxHeader)
    throw Error(ErrorKind::kCorrupt, cat("the header would have ", header_size, " bytes, more than the allowed ",
                                         kMaxHeader, "; this is no safetensors file, or it is damaged"));
  if (header_size > bytes.size() - sizeof header_size)
    corrupt(cat("the header ends at file offset ", sizeof header_size + header_size, ", the file has ", bytes.size(),
                " bytes"),
            kTruncated);
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + sizeof header_size, header_size);
  if (!header.starts_with('{')) corrupt("the header does not begin with '{' at file offset 8");

  HeaderSax sax;
  Json::sax_parse(header.begin(), header.end(), &sax);
  const size_t data_start = sizeof header_size + header_size;
  const auto data = bytes.subspan(data_start);
  SafeTensorsFile file;
  file.metadata = std::move(sax.metadata);
  file.tensors.reserve(sax.entries.size());
  for (const Entry& entry : sax.entries)
    file.tensors.push_back(with_context([&] { return cat("tensor ", quote(entry.name)); },
                                        [&] { return make_tensor(entry, data, data_start, owner); }));
  // Empty tensors share their offset with the next one and come first.
  std::stable_sort(file.tensors.begin(), file.tensors.end(), [](const SafeTensor& a, const SafeTensor& b) {
    const auto x = a.view.bytes, y = b.view.bytes;
    return x.data() != y.data() ? x.data() < y.data() : x.size() < y.size();
  });
  check_tiling(file.tensors, data, data_start);
  return file;
}

SafeTensorsFile SafeTensorsFile::open(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return with_context([&] { return path.string(); }, [&] { return parse(file->bytes(), file); });
}

}  // namespace nibble
