#include "model/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

#include "model/byte_level.h"
#include "model/token_pattern.h"
#include "model/token_text.h"

namespace nibble {
namespace {

struct Unicode final : Normalizer {
  utf8proc_option_t options;
  explicit Unicode(int flags) : options(static_cast<utf8proc_option_t>(flags | UTF8PROC_STABLE)) {}
  bool apply(std::string& text) const override {
    if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; })) return true;
    utf8proc_uint8_t* mapped = nullptr;
    const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                               static_cast<utf8proc_ssize_t>(text.size()), &mapped, options);
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
    if (size < 0) throw Error(ErrorKind::kUnsupported, cat("Unicode normalization failed: ", utf8proc_errmsg(size)));
    text.assign(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
    return true;
  }
};

struct Lowercase final : Normalizer {
  bool apply(std::string& text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const char32_t c = next_char(text, at);
      if (c == 0x130)
        out += "i\xcc\x87";  // the one letter whose lower case is two characters (SpecialCasing.txt)
      else
        append_char(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
    }
    text = std::move(out);
    return true;
  }
};

struct StripSpace final : Normalizer {
  bool left, right;
  StripSpace(bool l, bool r) : left(l), right(r) {}
  bool apply(std::string& text) const override {
    size_t begin = 0;
    size_t end = text.size();
    while (left && begin < end) {
      size_t next = begin;
      if (!is_white_space(next_char(text, next))) break;
      begin = next;
    }
    while (right && end > begin) {
      size_t last = end - 1;
      while (last > begin && (static_cast<unsigned char>(text[last]) & 0xc0) == 0x80) --last;
      size_t next = last;
      if (!is_white_space(next_char(text, next))) break;
      end = last;
    }
    text = text.substr(begin, end - begin);
    return begin == 0;
  }
};

struct StripAccents final : Normalizer {
  bool apply(std::string& text) const override {
    std::string out;
    bool front = true;
    for (size_t at = 0; at < text.size();) {
      const char32_t c = next_char(text, at);
      if (!is_mark(c))
        append_char(out, c);
      else
        front = front && !out.empty();
    }
    text = std::move(out);
    return front;
  }
};

// The clean-up of Google's NMT models: control characters go, unusual spaces become plain ones.
struct Nmt final : Normalizer {
  bool apply(std::string& text) const override {
    std::string out;
    bool front = true;
    for (size_t at = 0; at < text.size();) {
      const char32_t c = next_char(text, at);
      const bool dropped =
          (c >= 1 && c <= 8) || c == 0x0b || (c >= 0x0e && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f;
      const bool space = c == 9 || c == 0x0a || c == 0x0c || c == 0x0d || c == 0x1680 || (c >= 0x200b && c <= 0x200f) ||
                         c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd;
      if (!dropped)
        append_char(out, space ? U' ' : c);
      else
        front = front && !out.empty();
    }
    text = std::move(out);
    return front;
  }
};

struct Prepend final : Normalizer {
  std::string prefix;
  explicit Prepend(std::string p) : prefix(std::move(p)) {}
  bool apply(std::string& text) const override {
    if (!text.empty()) text.insert(0, prefix);
    return true;
  }
};

struct Replace final : Normalizer {
  TokenPattern pattern;
  std::string content;
  Replace(TokenPattern p, std::string c) : pattern(std::move(p)), content(std::move(c)) {}
  bool apply(std::string& text) const override {
    if (text.empty()) return true;
    std::string out;
    out.reserve(text.size());
    size_t done = 0;
    bool front = true;
    pattern.for_each(text, [&](size_t begin, size_t end) {
      if (begin == 0) front = end == 0 || (!content.empty() && end == char_length(text[0]));
      out.append(text, done, begin - done).append(content);
      done = end;
    });
    out.append(text, done);
    text = std::move(out);
    return front;
  }
};

struct ByteLevel final : Normalizer {
  bool apply(std::string& text) const override {
    std::string out;
    append_byte_level(out, text);
    text = std::move(out);
    return true;
  }
};

struct Sequence final : Normalizer {
  std::vector<std::unique_ptr<Normalizer>> steps;
  bool apply(std::string& text) const override {
    bool front = true;
    for (const auto& step : steps) front = step->apply(text) && front;
    return front;
  }
};

}  // namespace

std::unique_ptr<Normalizer> make_normalizer(const Json& description) {
  const std::string type = get_string(description, "type");
  return with_context([&] { return cat("normalizer ", type); },
                      [&]() -> std::unique_ptr<Normalizer> {
                        if (type == "NFC") return std::make_unique<Unicode>(UTF8PROC_COMPOSE);
                        if (type == "NFD") return std::make_unique<Unicode>(UTF8PROC_DECOMPOSE);
                        if (type == "NFKC") return std::make_unique<Unicode>(UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
                        if (type == "NFKD") return std::make_unique<Unicode>(UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
                        if (type == "Lowercase") return std::make_unique<Lowercase>();
                        if (type == "StripAccents") return std::make_unique<StripAccents>();
                        if (type == "Nmt") return std::make_unique<Nmt>();
                        if (type == "ByteLevel") return std::make_unique<ByteLevel>();
                        if (type == "Prepend") return std::make_unique<Prepend>(get_string(description, "prepend"));
                        if (type == "Strip")
                          return std::make_unique<StripSpace>(find_bool(description, "strip_left").value_or(true),
                                                              find_bool(description, "strip_right").value_or(true));
                        if (type == "Replace")
                          return std::make_unique<Replace>(TokenPattern(get(description, "pattern")),
                                                           get_string(description, "content"));
                        if (type == "Sequence") {
                          auto sequence = std::make_unique<Sequence>();
                          const Json& steps = get(description, "normalizers");
                          if (!steps.is_array()) throw Error(ErrorKind::kCorrupt, "'normalizers' should be an array");
                          for (const Json& step : steps) sequence->steps.push_back(make_normalizer(step));
                          return sequence;
                        }
                        throw Error(ErrorKind::kUnsupported, "this type is not supported");
                      });
}

}  // namespace nibble
