#include "pipeline/calibration_data.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

#include "core/checked.h"
#include "core/files.h"
#include "core/interrupt.h"
#include "core/mapped_file.h"
#include "core/text.h"
#include "model/config.h"
#include "model/load_tokenizer.h"
#include "pipeline/self_calibration.h"

namespace nibble {
namespace {

using Documents = std::vector<std::vector<TokenId>>;

constexpr size_t kMost = size_t{1} << 24;  // of samples and of seqlen: their product and its bytes do not overflow
// Where a text goes on, its last tokens depend on what follows.
constexpr size_t kUncertainTokens = 64;
constexpr size_t kTokenBytes = 16;  // more than the usual 4: one look at the file is nearly always enough

std::string_view view_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// The tokens that the text of a file starts with: `wanted`, or all there are.
std::vector<TokenId> text_tokens(const std::filesystem::path& path, const Tokenizer& tokenizer, size_t wanted) {
  const auto file = MappedFile::open(path);
  const std::string_view all = view_of(*file);
  for (size_t bytes = (wanted + kUncertainTokens) * kTokenBytes;; bytes *= 4) {
    std::string_view part = all.substr(0, bytes);
    const bool whole = part.size() == all.size();
    if (!whole) part = part.substr(0, part.rfind('\n'));
    if (!whole && part.size() == bytes) continue;  // one long line
    std::vector<TokenId> tokens = tokenizer.encode(normalize_newlines(part), /*add_special=*/false);
    if (!whole && tokens.size() < wanted + kUncertainTokens) continue;
    tokens.resize(std::min(tokens.size(), wanted));
    return tokens;
  }
}

std::vector<ChatMessage> parse_messages(const Json& list) {
  std::vector<ChatMessage> messages;
  if (!list.is_array() || list.empty())
    throw Error(ErrorKind::kCorrupt, R"('messages' should be a list like [{"role": "user", "content": "Hello"}])");
  for (const Json& message : list) {
    if (!message.is_object())
      throw Error(ErrorKind::kCorrupt, cat("a message should be an object, found ", message.type_name()));
    messages.push_back({get_string(message, "role"), get_string(message, "content")});
  }
  return messages;
}

// Collects entries of a JSON file until there is enough.
class Collector {
 public:
  Collector(const Source& source, const CalibrationChoice& choice) : source_(source), choice_(choice) {}

  bool full() const {
    return documents_.size() >= choice_.samples || stream_.size() >= choice_.samples * choice_.seqlen;
  }

  void add(const Json& entry) {
    if (entry.is_array()) return add_ids(entry);
    if (!entry.is_object())
      throw Error(ErrorKind::kCorrupt,
                  cat("should be an object with 'text', 'messages' or 'ids', found ", entry.type_name()));
    if (const Json* ids = find(entry, "ids")) return add_ids(*ids);
    const Json* messages = find(entry, "messages");
    const auto text = find_string(entry, "text");
    if (!text && !messages) throw Error(ErrorKind::kCorrupt, "has neither 'text' nor 'messages' nor 'ids'");
    if (!documents_.empty()) throw_mixed();
    start_tokenizer();
    if (std::exchange(ends_text_, false))
      if (const auto end = text_end(source_, *tokenizer_)) stream_.push_back(*end);
    if (text) {
      append(tokenizer_->encode(*text, /*add_special=*/false));
      ends_text_ = !text->empty();
    } else {
      if (!chat_) chat_.emplace(source_, *tokenizer_);
      append(chat_->encode(parse_messages(*messages), /*for_answer=*/false));
    }
  }

  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  Documents take_documents() { return std::move(documents_); }
  std::vector<TokenId> take_stream() { return std::move(stream_); }

 private:
  void add_ids(const Json& list) {
    if (!list.is_array()) throw Error(ErrorKind::kCorrupt, cat("'ids' should be a list, found ", list.type_name()));
    if (list.empty()) throw Error(ErrorKind::kCorrupt, "the list of token ids is empty");
    if (!stream_.empty()) throw_mixed();
    std::vector<TokenId> document;
    for (const Json& id : list) {
      if (!id.is_number_integer())
        throw Error(ErrorKind::kCorrupt, cat("a token id should be an integer, found ", id.dump()));
      if (document.size() < choice_.seqlen) document.push_back(checked_cast<TokenId>(id.get<int64_t>(), "a token id"));
    }
    documents_.push_back(std::move(document));
  }

  [[noreturn]] static void throw_mixed() {
    throw Error(ErrorKind::kCorrupt, "token ids and text are mixed: a file holds the one or the other");
  }

  void start_tokenizer() {
    if (!tokenizer_) tokenizer_ = load_tokenizer(source_.path());
  }

  void append(const std::vector<TokenId>& tokens) { stream_.insert(stream_.end(), tokens.begin(), tokens.end()); }

  const Source& source_;
  const CalibrationChoice& choice_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<ChatFormat> chat_;  // reads tokenizer_
  Documents documents_;             // of ids
  std::vector<TokenId> stream_;     // of everything else
  bool ends_text_ = false;          // the stream ends with a `text`
};

void collect_lines(const std::filesystem::path& path, Collector& collector, Progress& progress) {
  const auto file = MappedFile::open(path);
  std::string_view rest = view_of(*file);
  for (size_t number = 1; !collector.full() && !rest.empty(); ++number) {
    check_interrupted();
    progress.update(file->bytes().size() - rest.size(), file->bytes().size(), "reading calibration data");
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    with_context([&] { return cat(path.string(), ": line ", number); },
                 [&] { collector.add(parse_json(line, "entry")); });
  }
}

void collect_array(const std::filesystem::path& path, Collector& collector) {
  const Json list = read_json_file(path);
  if (!list.is_array())
    throw Error(ErrorKind::kCorrupt, cat(path.string(), ": should be a list of entries, found ", list.type_name(),
                                         "; an object in each line makes a .jsonl file"));
  for (size_t i = 0; i < list.size() && !collector.full(); ++i)
    with_context([&] { return cat(path.string(), ": entry ", i + 1); }, [&] { collector.add(list[i]); });
}

Documents cut_windows(const std::vector<TokenId>& tokens, const CalibrationChoice& choice, std::optional<TokenId> bos) {
  const size_t length = std::min(choice.seqlen, tokens.size());
  Documents documents;
  for (size_t begin = 0; length > 0 && documents.size() < choice.samples && begin + length <= tokens.size();
       begin += length) {
    const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(begin);
    documents.emplace_back(first, first + static_cast<std::ptrdiff_t>(length));
    if (bos) documents.back().front() = *bos;
  }
  return documents;
}

Documents read_documents(const Source& source, const CalibrationChoice& choice, Progress& progress) {
  const std::filesystem::path path = choice.from;
  const std::string extension = lower(path.extension().string());
  if (extension != ".json" && extension != ".jsonl") {
    const auto tokenizer = load_tokenizer(source.path());
    progress.update(0, 1, "reading calibration data");
    const auto tokens = with_context([&] { return path.string(); },
                                     [&] { return text_tokens(path, *tokenizer, choice.samples * choice.seqlen); });
    return cut_windows(tokens, choice, bos_token(choice.bos, source, tokenizer.get()));
  }
  Collector collector(source, choice);
  if (extension == ".json")
    collect_array(path, collector);
  else
    collect_lines(path, collector, progress);
  if (Documents documents = collector.take_documents(); !documents.empty()) return documents;
  return cut_windows(collector.take_stream(), choice, bos_token(choice.bos, source, collector.tokenizer()));
}

void check_vocabulary(const Documents& documents, size_t vocab) {
  for (size_t d = 0; d < documents.size(); ++d)
    for (size_t i = 0; i < documents[d].size(); ++i)
      if (documents[d][i] < 0 || std::cmp_greater_equal(documents[d][i], vocab))
        throw Error(ErrorKind::kCorrupt, cat("document ", d + 1, ": token id ", documents[d][i], " at ", i,
                                             " is outside the model's vocabulary of ", vocab));
}

}  // namespace

size_t CalibrationData::tokens() const {
  size_t count = 0;
  for (const auto& document : documents) count += document.size();
  return count;
}

// FNV-1a (Fowler, Noll, Vo) over 32-bit units.
std::string CalibrationData::hash() const {
  uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&](uint32_t value) { hash = (hash ^ value) * 0x100000001b3u; };
  for (const auto& document : documents) {
    add(static_cast<uint32_t>(document.size()));
    for (const TokenId id : document) add(static_cast<uint32_t>(id));
  }
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(hash));
  return text.data();
}

std::string CalibrationData::description() const {
  if (samples != 0) return cat(source, ": ", samples, samples == 1 ? " sample" : " samples", " through ", engine);
  return cat(source, ": ", documents.size(), documents.size() == 1 ? " document, " : " documents, ", tokens(),
             " tokens, hash ", hash());
}

OrderedJson to_json(const CalibrationData& data) {
  if (data.samples != 0)
    return {{"source", data.source}, {"samples", data.samples}, {"engine", data.engine}, {"notes", data.notes}};
  return {{"source", data.source},
          {"documents", data.documents.size()},
          {"tokens", data.tokens()},
          {"hash", data.hash()},
          {"notes", data.notes}};
}

CalibrationData load_calibration(const Source& source, const CalibrationChoice& choice, Progress& progress) {
  for (const auto& [name, value] : {std::pair("--samples", choice.samples), std::pair("--seqlen", choice.seqlen)})
    if (value < 1 || value > kMost)
      throw Error(ErrorKind::kUsage, cat(name, " should be from 1 to ", kMost, ", found ", value));
  CalibrationData data;
  if (choice.from == "self") {
    data.source = cat("self (seed ", choice.seed, ")");
    data.documents = sample_documents(source, choice, progress);
    return data;
  }
  data.source = choice.from;
  data.documents = read_documents(source, choice, progress);
  if (data.documents.empty())
    throw Error(ErrorKind::kUsage,
                cat(choice.from, ": holds no text; calibrate with another file or with --calib self"));
  if (!source.config().is_null())
    with_context([&] { return choice.from; },
                 [&] { check_vocabulary(data.documents, parse_config(source.config()).vocab_size); });
  if (data.documents.size() < choice.samples || data.documents.front().size() < choice.seqlen)
    data.notes.push_back(cat(choice.from, " has ", data.documents.size(), " of the ", choice.samples,
                             " documents that --samples asks for (", data.tokens(), " tokens)"));
  return data;
}

}  // namespace nibble
