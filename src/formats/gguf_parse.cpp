#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <set>

#include "core/checked.h"
#include "core/text.h"
#include "formats/damage.h"
#include "formats/ggml_type.h"
#include "formats/gguf_parser.h"

namespace nibble {
namespace {

// Far above any model, and low enough that a hostile header cannot ask for more memory than its file deserves.
constexpr size_t kMaxHeaderItems = size_t{1} << 20;
constexpr size_t kMaxArrayElements = size_t{1} << 24;  // of all arrays together
constexpr size_t kMaxName = 64;                        // of a tensor; the specification's limit
constexpr size_t kMaxKey = 65535;                      // the specification's limit
constexpr size_t kMaxDimensions = 4;
constexpr uint32_t kDefaultAlignment = 32;

enum ValueType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

// Bytes of the smallest value of a type: bounds how many of them the rest of the file can hold.
size_t smallest_size(uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool:
      return 1;
    case kU16:
    case kI16:
      return 2;
    case kU32:
    case kI32:
    case kF32:
      return 4;
    default:
      return 8;
  }
}

[[noreturn]] void corrupt(const std::string& what, std::string_view advice = kDamaged) {
  throw Error(ErrorKind::kCorrupt, cat(what, "; ", advice));
}

// Reads forward through the header.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  size_t offset() const { return offset_; }
  size_t remaining() const { return bytes_.size() - offset_; }

  template <class T>
  T read(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    return value;
  }

  std::string_view string(const char* what) {
    const auto length = read<uint64_t>(what);
    const auto text = take(length, what);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

  // A count of things that take at least `smallest` bytes each.
  size_t count(const char* what, size_t smallest, size_t limit) {
    const size_t at = offset_;
    const auto number = read<uint64_t>(what);
    if (number > remaining() / smallest)
      corrupt(cat(what, " at offset ", at, " is ", number, ", more than the ", remaining(), " bytes left can hold"));
    if (number > limit)
      throw Error(ErrorKind::kUnsupported, cat(what, " at offset ", at, " is ", number, "; the limit is ", limit));
    return number;
  }

 private:
  std::span<const std::byte> take(uint64_t size, const char* what) {
    if (size > remaining())
      corrupt(cat(what, " at offset ", offset_, " needs ", size, " bytes, ", remaining(), " are left"), kTruncated);
    const auto out = bytes_.subspan(offset_, size);
    offset_ += size;
    return out;
  }

  static_assert(std::endian::native == std::endian::little);
  std::span<const std::byte> bytes_;
  size_t offset_ = 0;
};

bool read_bool(Cursor& in) {
  const size_t at = in.offset();
  const auto byte = in.read<uint8_t>("a boolean");
  if (byte > 1) corrupt(cat("the boolean at offset ", at, " is ", int{byte}, " and not 0 or 1"));
  return byte != 0;
}

template <class T, class Wide>
std::vector<Wide> read_array(Cursor& in, size_t count) {
  std::vector<Wide> out(count);
  for (Wide& value : out) {
    const T read = in.read<T>("a list element");
    if constexpr (std::is_integral_v<T> && std::is_integral_v<Wide>)
      value = checked_cast<Wide>(read, "a list element");
    else
      value = static_cast<Wide>(read);
  }
  return out;
}

GgufValue read_list(Cursor& in, size_t& budget) {
  const auto type = in.read<uint32_t>("a list's element type");
  if (type == kArray) throw Error(ErrorKind::kUnsupported, "lists of lists are not supported");
  if (type > kF64) corrupt(cat("the element type is ", type, ", which does not exist"));
  const size_t count = in.count("a list's length", smallest_size(type), budget);
  budget -= count;
  switch (type) {
    case kU8:
      return {read_array<uint8_t, int64_t>(in, count)};
    case kI8:
      return {read_array<int8_t, int64_t>(in, count)};
    case kU16:
      return {read_array<uint16_t, int64_t>(in, count)};
    case kI16:
      return {read_array<int16_t, int64_t>(in, count)};
    case kU32:
      return {read_array<uint32_t, int64_t>(in, count)};
    case kI32:
      return {read_array<int32_t, int64_t>(in, count)};
    case kU64:
      return {read_array<uint64_t, int64_t>(in, count)};
    case kI64:
      return {read_array<int64_t, int64_t>(in, count)};
    case kF32:
      return {read_array<float, double>(in, count)};
    case kF64:
      return {read_array<double, double>(in, count)};
    case kBool: {
      std::vector<bool> out(count);
      for (size_t i = 0; i < count; ++i) out[i] = read_bool(in);
      return {std::move(out)};
    }
    default: {
      GgufValue::Strings out(count);
      for (std::string_view& text : out) text = in.string("a string of a list");
      return {std::move(out)};
    }
  }
}

// `budget`: list elements that the file may still have.
GgufValue read_value(Cursor& in, size_t& budget) {
  const auto type = in.read<uint32_t>("the value type");
  constexpr const char* kWhat = "the value";
  switch (type) {
    case kU8:
      return {uint64_t{in.read<uint8_t>(kWhat)}};
    case kI8:
      return {int64_t{in.read<int8_t>(kWhat)}};
    case kU16:
      return {uint64_t{in.read<uint16_t>(kWhat)}};
    case kI16:
      return {int64_t{in.read<int16_t>(kWhat)}};
    case kU32:
      return {uint64_t{in.read<uint32_t>(kWhat)}};
    case kI32:
      return {int64_t{in.read<int32_t>(kWhat)}};
    case kU64:
      return {in.read<uint64_t>(kWhat)};
    case kI64:
      return {in.read<int64_t>(kWhat)};
    case kF32:
      return {double{in.read<float>(kWhat)}};
    case kF64:
      return {in.read<double>(kWhat)};
    case kBool:
      return {read_bool(in)};
    case kString:
      return {in.string(kWhat)};
    case kArray:
      return read_list(in, budget);
    default:
      corrupt(cat("the value type at offset ", in.offset() - sizeof type, " is ", type, ", which does not exist"));
  }
}

bool printable_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

bool printable_utf8(std::string_view text) {
  return find_invalid_utf8(text) == std::string_view::npos &&
         std::none_of(text.begin(), text.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; });
}

std::string_view read_key(Cursor& in) {
  const size_t at = in.offset();
  const std::string_view key = in.string("a metadata key");
  if (key.empty() || key.size() > kMaxKey || !printable_ascii(key))
    corrupt(cat("the metadata key at offset ", at, " is ", quote(key), " and not printable ASCII"));
  return key;
}

std::string_view read_tensor_name(Cursor& in) {
  const size_t at = in.offset();
  const std::string_view name = in.string("a tensor name");
  if (name.empty() || name.size() > kMaxName || !printable_utf8(name))
    corrupt(cat("the tensor name at offset ", at, " is ", quote(name), " and not 1 to ", kMaxName, " printable bytes"));
  return name;
}

// A tensor as the header describes it. `offset` counts from the start of the data.
struct TensorInfo {
  std::string name;
  DType dtype;
  Shape shape;  // outermost first
  size_t offset;
  size_t bytes;
};

TensorInfo read_tensor_info(Cursor& in, size_t alignment) {
  TensorInfo out{.name = std::string(read_tensor_name(in)), .dtype = {}, .shape = {}, .offset = 0, .bytes = 0};
  with_context([&] { return cat("tensor ", quote(out.name)); },
               [&] {
                 const auto dimensions = in.read<uint32_t>("the number of dimensions");
                 if (dimensions > kMaxDimensions)
                   corrupt(cat("it has ", dimensions, " dimensions, GGUF allows ", kMaxDimensions));
                 for (uint32_t i = 0; i < dimensions; ++i) out.shape.push_back(in.read<uint64_t>("an extent"));
                 const size_t row = out.shape.empty() ? 1 : out.shape.front();
                 std::reverse(out.shape.begin(), out.shape.end());
                 const auto type = in.read<uint32_t>("the element type");
                 const std::optional<DType> dtype = find_ggml_type(type);
                 if (!dtype)
                   throw Error(ErrorKind::kUnsupported,
                               cat("element type ", ggml_type_name(type), " is not supported"));
                 out.dtype = *dtype;
                 if (row % info(*dtype).block != 0)
                   corrupt(cat("its rows of ", row, " elements are no multiple of ", info(*dtype).name, "'s block of ",
                               info(*dtype).block));
                 out.bytes = byte_size(*dtype, element_count(out.shape));
                 out.offset = in.read<uint64_t>("the data offset");
                 if (out.offset % alignment != 0)
                   corrupt(cat("its data offset ", out.offset, " is no multiple of the alignment ", alignment));
               });
  return out;
}

size_t read_alignment(const Gguf& gguf) {
  const auto alignment = gguf.find_unsigned("general.alignment").value_or(kDefaultAlignment);
  if (alignment < 8 || alignment > UINT32_MAX || !std::has_single_bit(alignment))
    corrupt(cat("general.alignment is ", alignment, " and not a power of two from 8 on"));
  return alignment;
}

uint32_t read_version(Cursor& in) {
  constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
  if (in.read<uint32_t>("the file's magic number") != kMagic)
    throw Error(ErrorKind::kCorrupt, "the file does not begin with 'GGUF'; it is no GGUF file, or it is damaged");
  const auto version = in.read<uint32_t>("the version");
  if (version == 2 || version == 3) return version;
  if (version == 0x02000000 || version == 0x03000000)
    throw Error(ErrorKind::kUnsupported,
                "big-endian GGUF files are not supported; convert it with gguf-py's gguf-convert-endian");
  throw Error(ErrorKind::kUnsupported,
              cat("GGUF version ", version, " is not supported, only 2 and 3 are; convert the model again"));
}

// Tensors sorted by offset must tile the data, each padded to `alignment` (the last may lack its padding).
void check_tiling(const std::vector<TensorInfo>& infos, size_t data_start, size_t alignment, size_t file_size) {
  std::vector<const TensorInfo*> sorted(infos.size());
  std::transform(infos.begin(), infos.end(), sorted.begin(), [](const TensorInfo& tensor) { return &tensor; });
  std::sort(sorted.begin(), sorted.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return a->offset != b->offset ? a->offset < b->offset : a->bytes < b->bytes;
  });
  const size_t available = file_size > data_start ? file_size - data_start : 0;
  size_t expected = 0, end = 0;  // counted from the start of the data
  for (const TensorInfo* tensor : sorted) {
    if (tensor->offset != expected)
      corrupt(cat("tensor ", quote(tensor->name), ": its data begins at offset ", tensor->offset, " of the data, ",
                  tensor->offset < expected ? "inside another tensor's" : "after a gap", " (expected ", expected, ")"));
    if (tensor->bytes > 0 && (tensor->bytes > available || tensor->offset > available - tensor->bytes))
      corrupt(cat("tensor ", quote(tensor->name), ": its ", tensor->bytes, " bytes at file offset ",
                  data_start + tensor->offset, " go past the end of the file (", file_size, " bytes)"),
              kTruncated);
    end = tensor->offset + tensor->bytes;
    expected = round_up(end, alignment);
  }
  if (available > expected)
    corrupt(cat("the last tensor ends at file offset ", data_start + end, ", the file has ", file_size, " bytes"));
}

}  // namespace

std::shared_ptr<Gguf> GgufParser::parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  refuse_lfs_pointer(bytes);
  Cursor in(bytes);
  auto gguf = std::make_shared<Gguf>();
  gguf->version_ = read_version(in);
  // A tensor's entry takes 24 bytes at least (name length, dimensions, type, offset), a key's 13.
  const size_t tensor_count = in.count("the number of tensors", 24, kMaxHeaderItems);
  const size_t key_count = in.count("the number of metadata keys", 13, kMaxHeaderItems);

  size_t budget = kMaxArrayElements;
  for (size_t i = 0; i < key_count; ++i) {
    const std::string key(read_key(in));
    const size_t start = in.offset();
    GgufValue value = with_context([&]() -> const std::string& { return key; }, [&] { return read_value(in, budget); });
    value.stored = bytes.subspan(start, in.offset() - start);
    if (!gguf->metadata_.emplace(key, std::move(value)).second)
      corrupt(cat("the metadata has the key ", key, " twice"));
  }

  const size_t alignment = read_alignment(*gguf);
  std::vector<TensorInfo> infos;
  std::set<std::string_view> names;
  infos.reserve(tensor_count);
  for (size_t i = 0; i < tensor_count; ++i) {
    infos.push_back(read_tensor_info(in, alignment));
    if (!names.insert(infos.back().name).second) corrupt(cat("two tensors are called ", quote(infos.back().name)));
  }

  const size_t data_start = round_up(in.offset(), alignment);
  check_tiling(infos, data_start, alignment, bytes.size());
  for (TensorInfo& tensor : infos) {
    const auto data = tensor.bytes == 0 ? bytes.first(0) : bytes.subspan(data_start + tensor.offset, tensor.bytes);
    gguf->tensors_.push_back({std::move(tensor.name), {tensor.dtype, std::move(tensor.shape), data, owner}});
  }
  gguf->owners_.push_back(std::move(owner));
  return gguf;
}

std::shared_ptr<const Gguf> Gguf::parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  return GgufParser::parse(bytes, std::move(owner));
}

}  // namespace nibble
