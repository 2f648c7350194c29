#include "model/token_decoder.h"

#include "core/text.h"
#include "model/byte_level.h"
#include "model/token_pattern.h"
#include "model/token_text.h"

namespace nibble {
namespace {

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  if (from.empty()) return;
  size_t at = text.find(from);
  if (at == std::string::npos) return;
  std::string out;
  size_t done = 0;
  for (; at != std::string::npos; at = text.find(from, done)) {
    out.append(text, done, at - done).append(to);
    done = at + from.size();
  }
  out.append(text, done);
  text = std::move(out);
}

struct ByteLevel final : TokenDecoder {
  void apply(std::vector<std::string>& tokens) const override {
    std::string bytes;
    for (const std::string& token : tokens) bytes += from_byte_level(token).value_or(token);
    tokens = {replace_invalid_utf8(bytes)};
  }
};

struct ByteFallback final : TokenDecoder {
  static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    const char l = static_cast<char>(c | 0x20);
    return l >= 'a' && l <= 'f' ? l - 'a' + 10 : -1;
  }
  // The byte that "<0x0A>" stands for, or -1.
  static int byte_of(const std::string& token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
    // The reference parses with a sign allowed: "<0x+A>" is 10.
    if (token[3] == '+') return hex(token[4]);
    const int high = hex(token[3]);
    const int low = hex(token[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
  }
  void apply(std::vector<std::string>& tokens) const override {
    std::vector<std::string> out;
    std::string bytes;
    const auto flush = [&] {
      // A run that is not UTF-8 as a whole is lost as a whole.
      if (find_invalid_utf8(bytes) == std::string_view::npos) {
        if (!bytes.empty()) out.push_back(bytes);
      } else {
        for (size_t i = 0; i < bytes.size(); ++i) out.emplace_back("\xef\xbf\xbd");
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const int byte = byte_of(token); byte >= 0) {
        bytes.push_back(static_cast<char>(static_cast<unsigned char>(byte)));
      } else {
        flush();
        out.push_back(std::move(token));
      }
    }
    flush();
    tokens = std::move(out);
  }
};

struct Fuse final : TokenDecoder {
  void apply(std::vector<std::string>& tokens) const override { tokens = {join(tokens, "")}; }
};

struct StripChar final : TokenDecoder {
  std::string content;  // one character
  size_t start, stop;
  StripChar(std::string c, size_t a, size_t b) : content(std::move(c)), start(a), stop(b) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) {
      std::string_view text = token;
      for (size_t i = 0; i < start && text.starts_with(content); ++i) text.remove_prefix(content.size());
      for (size_t i = 0; i < stop && text.ends_with(content); ++i) text.remove_suffix(content.size());
      token = std::string(text);
    }
  }
};

struct Replace final : TokenDecoder {
  TokenPattern pattern;
  std::string content;
  Replace(TokenPattern p, std::string c) : pattern(std::move(p)), content(std::move(c)) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) {
      std::string out;
      size_t done = 0;
      if (!token.empty())
        pattern.for_each(token, [&](size_t begin, size_t end) {
          out.append(token, done, begin - done).append(content);
          done = end;
        });
      out.append(token, done);
      token = std::move(out);
    }
  }
};

struct Metaspace final : TokenDecoder {
  std::string mark;
  bool prepended;
  Metaspace(std::string m, bool p) : mark(std::move(m)), prepended(p) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) replace_all(token, mark, prepended && &token == tokens.data() ? "" : " ");
  }
};

struct BpeSuffix final : TokenDecoder {
  std::string suffix;
  explicit BpeSuffix(std::string s) : suffix(std::move(s)) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) replace_all(token, suffix, &token == &tokens.back() ? "" : " ");
  }
};

struct Sequence final : TokenDecoder {
  std::vector<std::unique_ptr<TokenDecoder>> steps;
  void apply(std::vector<std::string>& tokens) const override {
    for (const auto& step : steps) step->apply(tokens);
  }
};

std::string one_char(const Json& object, std::string_view key) {
  std::string text = get_string(object, key);
  if (text.empty() || char_length(text[0]) != text.size())
    throw Error(ErrorKind::kCorrupt, cat("'", key, "' should be one character, found '", text, "'"));
  return text;
}

}  // namespace

std::unique_ptr<TokenDecoder> make_token_decoder(const Json& description) {
  const std::string type = get_string(description, "type");
  return with_context([&] { return cat("decoder ", type); },
                      [&]() -> std::unique_ptr<TokenDecoder> {
                        if (type == "ByteLevel") return std::make_unique<ByteLevel>();
                        if (type == "ByteFallback") return std::make_unique<ByteFallback>();
                        if (type == "Fuse") return std::make_unique<Fuse>();
                        if (type == "Strip")
                          return std::make_unique<StripChar>(one_char(description, "content"),
                                                             get_size(description, "start"),
                                                             get_size(description, "stop"));
                        if (type == "Replace")
                          return std::make_unique<Replace>(TokenPattern(get(description, "pattern")),
                                                           get_string(description, "content"));
                        if (type == "Metaspace") {
                          const bool never = find_string(description, "prepend_scheme").value_or("always") == "never" ||
                                             find_bool(description, "add_prefix_space") == false;
                          return std::make_unique<Metaspace>(one_char(description, "replacement"), !never);
                        }
                        if (type == "BPEDecoder") return std::make_unique<BpeSuffix>(get_string(description, "suffix"));
                        if (type == "Sequence") {
                          auto sequence = std::make_unique<Sequence>();
                          const Json& steps = get(description, "decoders");
                          if (!steps.is_array()) throw Error(ErrorKind::kCorrupt, "'decoders' should be an array");
                          for (const Json& step : steps) sequence->steps.push_back(make_token_decoder(step));
                          return sequence;
                        }
                        throw Error(ErrorKind::kUnsupported, "this type is not supported");
                      });
}

}  // namespace nibble
