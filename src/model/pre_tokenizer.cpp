#include "model/pre_tokenizer.h"

#include <algorithm>
#include <optional>

#include "model/byte_level.h"
#include "model/token_pattern.h"
#include "model/token_text.h"

namespace nibble {
namespace {

using Piece = PieceList::Piece;

// What becomes of the matches of a split; names and meaning as in the reference library.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior parse_behavior(const std::string& name) {
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  throw Error(ErrorKind::kUnsupported, cat("split behavior '", name, "' is not supported"));
}

// A range of one piece, between matches or a match itself.
struct Part {
  size_t begin;
  size_t end;
  bool match;
};

void merge_parts(std::vector<Part>& parts, Behavior behavior) {
  const bool backwards = behavior == Behavior::kMergedWithNext;
  if (backwards) std::reverse(parts.begin(), parts.end());
  std::vector<Part> merged;
  bool previous = false;
  for (const Part& part : parts) {
    const bool joins = behavior == Behavior::kContiguous ? part.match == previous : part.match && !previous;
    previous = part.match;
    if (joins && !merged.empty())
      (backwards ? merged.back().begin : merged.back().end) = backwards ? part.begin : part.end;
    else
      merged.push_back(part);
  }
  if (backwards) std::reverse(merged.begin(), merged.end());
  parts = std::move(merged);
}

// Splits every piece. find_matches(text, found) calls found(begin, end) for each match in `text`.
template <class FindMatches>
void split_pieces(PieceList& list, Behavior behavior, bool invert, const FindMatches& find_matches) {
  std::vector<Piece> out;
  out.reserve(std::max(list.pieces.size(), list.text.size() / 4));
  const size_t start = list.pieces.empty() ? 0 : list.pieces.front().begin;
  const auto emit = [&](size_t begin, size_t end) {
    if (begin < end) out.push_back({begin, end});
  };
  std::vector<Part> parts;
  for (const Piece& piece : list.pieces) {
    const std::string_view text = list.text.substr(piece.begin, piece.end - piece.begin);
    size_t done = 0;
    if (behavior == Behavior::kIsolated) {
      find_matches(text, [&](size_t begin, size_t end) {
        emit(piece.begin + done, piece.begin + begin);
        emit(piece.begin + begin, piece.begin + end);
        done = end;
      });
      emit(piece.begin + done, piece.end);
      continue;
    }
    parts.clear();
    find_matches(text, [&](size_t begin, size_t end) {
      if (done != begin) parts.push_back({done, begin, invert});
      parts.push_back({begin, end, !invert});
      done = end;
    });
    if (done != text.size()) parts.push_back({done, text.size(), invert});
    if (behavior != Behavior::kRemoved) merge_parts(parts, behavior);
    for (const Part& part : parts)
      if (behavior != Behavior::kRemoved || !part.match) emit(piece.begin + part.begin, piece.begin + part.end);
  }
  list.at_start = list.at_start && !out.empty() && out.front().begin == start;
  list.pieces = std::move(out);
}

// Matches single characters by their class.
template <class Class>
auto each_char(Class is_match) {
  return [is_match](std::string_view text, const auto& found) {
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      if (is_match(next_char(text, at))) found(begin, at);
    }
  };
}

struct SplitByPattern final : PreTokenizer {
  TokenPattern pattern;
  Behavior behavior;
  bool invert;
  SplitByPattern(TokenPattern p, Behavior b, bool i) : pattern(std::move(p)), behavior(b), invert(i) {}
  void apply(PieceList& list) const override {
    split_pieces(list, behavior, invert,
                 [&](std::string_view text, const auto& found) { pattern.for_each(text, found); });
  }
};

template <class Class>
struct SplitByClass final : PreTokenizer {
  Class is_match;
  Behavior behavior;
  SplitByClass(Class c, Behavior b) : is_match(c), behavior(b) {}
  void apply(PieceList& list) const override { split_pieces(list, behavior, false, each_char(is_match)); }
};

template <class Class>
std::unique_ptr<PreTokenizer> split_by_class(Class is_match, Behavior behavior) {
  return std::make_unique<SplitByClass<Class>>(is_match, behavior);
}

struct ByteLevel final : PreTokenizer {
  bool add_prefix_space;
  std::optional<TokenPattern> words;
  ByteLevel(bool prefix, bool use_regex) : add_prefix_space(prefix) {
    if (use_regex)
      words = TokenPattern::from_regex(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
  }
  void apply(PieceList& list) const override {
    if (add_prefix_space) {
      std::string spaced;
      spaced.reserve(list.text.size() + list.pieces.size());
      for (Piece& piece : list.pieces) {
        const size_t begin = spaced.size();
        if (list.text[piece.begin] != ' ') spaced += ' ';
        spaced += list.text.substr(piece.begin, piece.end - piece.begin);
        piece = {begin, spaced.size()};
      }
      list.rewrite(std::move(spaced));
    }
    if (words)
      split_pieces(list, Behavior::kIsolated, false,
                   [&](std::string_view text, const auto& found) { words->for_each(text, found); });
    std::string spelled;
    spelled.reserve(list.text.size() + list.text.size() / 4);
    for (Piece& piece : list.pieces) {
      const size_t begin = spelled.size();
      append_byte_level(spelled, list.text.substr(piece.begin, piece.end - piece.begin));
      piece = {begin, spelled.size()};
    }
    list.rewrite(std::move(spelled));
  }
};

struct Metaspace final : PreTokenizer {
  enum class Prepend { kFirst, kNever, kAlways };
  std::string mark;
  Prepend prepend;
  bool split;
  Metaspace(std::string m, Prepend p, bool s) : mark(std::move(m)), prepend(p), split(s) {}
  void apply(PieceList& list) const override {
    std::string out;
    out.reserve(list.text.size() + list.text.size() / 2);
    for (Piece& piece : list.pieces) {
      const bool first = list.at_start && &piece == list.pieces.data();
      const std::string_view text = list.text.substr(piece.begin, piece.end - piece.begin);
      const size_t begin = out.size();
      const bool marked = text.starts_with(' ') || text.starts_with(mark);
      if (!marked && (prepend == Prepend::kAlways || (prepend == Prepend::kFirst && first))) out += mark;
      for (const char c : text) {
        if (c == ' ')
          out += mark;
        else
          out += c;
      }
      piece = {begin, out.size()};
    }
    list.rewrite(std::move(out));
    if (!split) return;
    split_pieces(list, Behavior::kMergedWithNext, false, [&](std::string_view text, const auto& found) {
      for (size_t at = text.find(mark); at != std::string_view::npos; at = text.find(mark, at + mark.size()))
        found(at, at + mark.size());
    });
  }
};

struct FixedLength final : PreTokenizer {
  size_t length;  // characters
  explicit FixedLength(size_t l) : length(l) {}
  void apply(PieceList& list) const override {
    split_pieces(list, Behavior::kIsolated, false, [&](std::string_view text, const auto& found) {
      size_t begin = 0;
      size_t count = 0;
      for (size_t at = 0; at < text.size();) {
        next_char(text, at);
        if (++count < length && at < text.size()) continue;
        found(begin, at);
        begin = at;
        count = 0;
      }
    });
  }
};

struct Sequence final : PreTokenizer {
  std::vector<std::unique_ptr<PreTokenizer>> steps;
  void apply(PieceList& list) const override {
    for (const auto& step : steps) step->apply(list);
  }
};

// A string that must be one character.
std::string get_char(const Json& object, std::string_view key) {
  std::string text = get_string(object, key);
  if (text.empty() || char_length(text[0]) != text.size())
    throw Error(ErrorKind::kCorrupt, cat("'", key, "' should be one character, found '", text, "'"));
  return text;
}

std::unique_ptr<PreTokenizer> make_metaspace(const Json& description) {
  const std::string scheme = find_string(description, "prepend_scheme").value_or("always");
  const auto add_prefix = find_bool(description, "add_prefix_space");
  Metaspace::Prepend prepend{};
  if (scheme == "first")
    prepend = Metaspace::Prepend::kFirst;
  else if (scheme == "never")
    prepend = Metaspace::Prepend::kNever;
  else if (scheme == "always")
    prepend = Metaspace::Prepend::kAlways;
  else
    throw Error(ErrorKind::kUnsupported, cat("prepend_scheme '", scheme, "' is not supported"));
  if (add_prefix == false) {
    if (prepend == Metaspace::Prepend::kFirst ||
        (prepend == Metaspace::Prepend::kAlways && find(description, "prepend_scheme")))
      throw Error(ErrorKind::kCorrupt, cat("add_prefix_space false contradicts prepend_scheme '", scheme, "'"));
    prepend = Metaspace::Prepend::kNever;
  }
  return std::make_unique<Metaspace>(get_char(description, "replacement"), prepend,
                                     find_bool(description, "split").value_or(true));
}

}  // namespace

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const Json& description) {
  const std::string type = get_string(description, "type");
  return with_context(
      [&] { return cat("pre_tokenizer ", type); },
      [&]() -> std::unique_ptr<PreTokenizer> {
        if (type == "ByteLevel")
          return std::make_unique<ByteLevel>(find_bool(description, "add_prefix_space").value_or(true),
                                             find_bool(description, "use_regex").value_or(true));
        if (type == "Metaspace") return make_metaspace(description);
        if (type == "Split")
          return std::make_unique<SplitByPattern>(TokenPattern(get(description, "pattern")),
                                                  parse_behavior(get_string(description, "behavior")),
                                                  find_bool(description, "invert").value_or(false));
        if (type == "Digits")
          return split_by_class(is_numeric, find_bool(description, "individual_digits").value_or(false)
                                                ? Behavior::kIsolated
                                                : Behavior::kContiguous);
        if (type == "Punctuation")
          return split_by_class(is_punctuation,
                                parse_behavior(find_string(description, "behavior").value_or("Isolated")));
        if (type == "WhitespaceSplit") return split_by_class(is_white_space, Behavior::kRemoved);
        if (type == "Whitespace")
          return std::make_unique<SplitByPattern>(
              TokenPattern::from_regex(R"([\w\x{200c}\x{200d}]+|[^\w\s\x{200c}\x{200d}]+)"), Behavior::kRemoved, true);
        if (type == "CharDelimiterSplit" || type == "Delimiter") {
          size_t at = 0;
          const char32_t delimiter = next_char(get_char(description, "delimiter"), at);
          return split_by_class([delimiter](char32_t c) { return c == delimiter; }, Behavior::kRemoved);
        }
        if (type == "FixedLength") {
          const size_t length = find_size(description, "length").value_or(5);
          if (length == 0) throw Error(ErrorKind::kCorrupt, "'length' should be at least 1");
          return std::make_unique<FixedLength>(length);
        }
        if (type == "BertPreTokenizer") {
          auto sequence = std::make_unique<Sequence>();
          sequence->steps.push_back(split_by_class(is_white_space, Behavior::kRemoved));
          sequence->steps.push_back(split_by_class(is_punctuation, Behavior::kIsolated));
          return sequence;
        }
        if (type == "Sequence") {
          auto sequence = std::make_unique<Sequence>();
          const Json& steps = get(description, "pretokenizers");
          if (!steps.is_array()) throw Error(ErrorKind::kCorrupt, "'pretokenizers' should be an array");
          for (const Json& step : steps) sequence->steps.push_back(make_pre_tokenizer(step));
          return sequence;
        }
        throw Error(ErrorKind::kUnsupported, "this type is not supported");
      });
}

}  // namespace nibble
