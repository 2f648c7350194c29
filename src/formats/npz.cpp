#include "formats/npz.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>

#include "core/checked.h"
#include "core/error.h"
#include "core/text.h"
#include "formats/damage.h"
#include "formats/zip.h"

namespace nibble {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";

[[noreturn]] void corrupt(const std::string& what, std::string_view advice = kDamaged) {
  throw Error(ErrorKind::kCorrupt, cat("NumPy array: ", what, "; ", advice));
}

// The header: a literal of a Python dictionary with three keys, as NumPy writes it.
class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : text_(text) {}

  struct Header {
    std::optional<std::string> descr;
    std::optional<bool> fortran_order;
    std::optional<Shape> shape;
  };

  Header parse() {
    Header header;
    expect('{');
    while (!accept('}')) {
      const std::string key = string();
      expect(':');
      if (key == "descr" && !header.descr)
        header.descr = description();
      else if (key == "fortran_order" && !header.fortran_order)
        header.fortran_order = boolean();
      else if (key == "shape" && !header.shape)
        header.shape = tuple();
      else
        corrupt(cat("unexpected key ", quote(key), " in its header"));
      if (accept(',')) continue;
      expect('}');
      break;
    }
    if (peek()) corrupt(cat("its header goes on behind the dictionary with ", quote(text_.substr(at_, 8))));
    if (!header.descr || !header.fortran_order || !header.shape)
      corrupt("its header lacks 'descr', 'fortran_order' or 'shape'");
    return header;
  }

 private:
  std::optional<char> peek() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
    return at_ < text_.size() ? std::optional(text_[at_]) : std::nullopt;
  }
  bool accept(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) corrupt(cat("expected ", quote(std::string(1, c)), " at ", at_, " of its header"));
  }
  std::string string() {
    const auto open = peek();
    if (open != '\'' && open != '"') corrupt(cat("expected a string at ", at_, " of its header"));
    const size_t end = text_.find(*open, ++at_);
    if (end == std::string_view::npos) corrupt("a string in its header does not end");
    std::string value(text_.substr(at_, end - at_));
    at_ = end + 1;
    return value;
  }
  // Of plain arrays a string; records have a list of fields.
  std::string description() {
    if (peek() == '[') throw Error(ErrorKind::kUnsupported, "NumPy array: records of several fields");
    return string();
  }
  bool boolean() {
    peek();
    for (const std::string_view word : {"True", "False"})
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return word == "True";
      }
    corrupt(cat("expected True or False at ", at_, " of its header"));
  }
  Shape tuple() {
    Shape shape;
    expect('(');
    while (!accept(')')) {
      peek();
      size_t extent = 0;
      const char* const begin = text_.data() + at_;
      const auto [end, failed] = std::from_chars(begin, text_.data() + text_.size(), extent);
      if (failed != std::errc()) corrupt(cat("expected an extent at ", at_, " of its header"));
      at_ += static_cast<size_t>(end - begin);
      shape.push_back(extent);
      if (accept(',')) continue;
      expect(')');
      break;
    }
    return shape;
  }

  std::string_view text_;
  size_t at_ = 0;
};

// "<f4": byte order, kind, bytes.
DType dtype_of(std::string_view descr) {
  if (descr.starts_with('>'))
    throw Error(ErrorKind::kUnsupported,
                "NumPy array: its values are big-endian; save it again as array.astype(array.dtype.newbyteorder('<'))");
  struct Name {
    std::string_view text;
    DType dtype;
  };
  static constexpr std::array<Name, 12> kNames = {{{"f8", DType::kF64},
                                                   {"f4", DType::kF32},
                                                   {"f2", DType::kF16},
                                                   {"i8", DType::kI64},
                                                   {"i4", DType::kI32},
                                                   {"i2", DType::kI16},
                                                   {"i1", DType::kI8},
                                                   {"u8", DType::kU64},
                                                   {"u4", DType::kU32},
                                                   {"u2", DType::kU16},
                                                   {"u1", DType::kU8},
                                                   {"b1", DType::kBool}}};
  const bool ordered = descr.starts_with('<') || descr.starts_with('|') || descr.starts_with('=');
  for (const Name& name : kNames)
    if (ordered && descr.substr(1) == name.text) return name.dtype;
  throw Error(ErrorKind::kUnsupported,
              cat("NumPy array: its element type ", quote(descr), " is neither an integer nor a float nor bool"));
}

}  // namespace

TensorView parse_npy(std::span<const std::byte> file) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (!text.starts_with(kMagic)) corrupt("it does not start as .npy files do");
  const auto byte = [&](size_t at) -> size_t {
    if (at >= text.size()) corrupt("its header is cut off", kTruncated);
    return static_cast<unsigned char>(text[at]);
  };
  const size_t major = byte(6);
  if (major < 1 || major > 3)
    throw Error(ErrorKind::kUnsupported, cat("NumPy array: format version ", major, "; known are 1 to 3"));
  size_t begin = 8, size = 0;
  for (size_t i = 0; i < (major == 1 ? 2u : 4u); ++i) size |= byte(begin++) << (8 * i);
  if (size > text.size() - begin) corrupt("its header is cut off", kTruncated);
  const auto header = HeaderParser(text.substr(begin, size)).parse();

  TensorView view;
  view.dtype = dtype_of(*header.descr);
  view.shape = *header.shape;
  const auto wide = std::count_if(view.shape.begin(), view.shape.end(), [](size_t extent) { return extent > 1; });
  if (*header.fortran_order && wide > 1)
    throw Error(ErrorKind::kUnsupported,
                "NumPy array: its values are in column-major order; save numpy.ascontiguousarray of it");
  view.bytes = file.subspan(begin + size);
  const size_t wanted = byte_size(view.dtype, element_count(view.shape));
  if (view.bytes.size() != wanted)
    corrupt(cat("holds ", view.bytes.size(), " bytes, but its type and shape need ", wanted),
            view.bytes.size() < wanted ? kTruncated : kDamaged);
  return view;
}

std::map<std::string, TensorView, std::less<>> parse_npz(std::span<const std::byte> file) {
  std::map<std::string, TensorView, std::less<>> arrays;
  for (const ZipMember& member : parse_zip(file)) {
    std::string name = member.name;
    if (name.ends_with(".npy")) name.resize(name.size() - 4);
    TensorView view = with_context([&] { return quote(name); }, [&] { return parse_npy(member.bytes); });
    if (!arrays.emplace(std::move(name), std::move(view)).second)
      corrupt(cat("the array ", quote(member.name), " is there twice"));
  }
  return arrays;
}

}  // namespace nibble
