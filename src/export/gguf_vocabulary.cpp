#include "export/gguf_vocabulary.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "core/checked.h"
#include "core/text.h"
#include "model/gguf_pre_tokenizers.h"
#include "model/sentencepiece_pieces.h"

namespace nibble {
namespace {

// tokenizer.ggml.token_type
enum TokenType : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<float> scores;  // "llama" only

  std::optional<uint32_t> find(std::string_view token) const {
    const auto at = std::find(tokens.begin(), tokens.end(), token);
    if (at == tokens.end()) return std::nullopt;
    return static_cast<uint32_t>(at - tokens.begin());
  }
};

[[noreturn]] void unsupported(const std::string& what) {
  throw Error(ErrorKind::kUnsupported, cat("tokenizer.json: ", what, "; GGUF has no words for it"));
}

void place(Vocabulary& vocab, size_t id, std::string text, int32_t type) {
  if (id >= vocab.tokens.size())
    throw Error(ErrorKind::kUnsupported, cat("token '", text, "' has id ", id, ", but the embedding has ",
                                             vocab.tokens.size(), " rows; GGUF holds one token for each row"));
  vocab.tokens[id] = std::move(text);
  vocab.types[id] = type;
}

// "<0x0A>"
bool is_byte_token(std::string_view text) { return text.size() == 6 && text.starts_with("<0x") && text.ends_with(">"); }

// All tokens of a tokenizer.json; what nothing names is "[PAD7]".
Vocabulary read_json_vocabulary(const Json& json, size_t size, bool bytes) {
  Vocabulary vocab;
  for (size_t i = 0; i < size; ++i) vocab.tokens.push_back(cat("[PAD", i, "]"));
  vocab.types.assign(size, kUnused);
  for (const auto& [text, id] : get(get(json, "model"), "vocab").items()) {
    if (!id.is_number_unsigned()) throw Error(ErrorKind::kCorrupt, cat("token '", text, "' has no number for its id"));
    place(vocab, id.get<size_t>(), text, bytes && is_byte_token(text) ? kByte : kNormal);
  }
  if (const Json* added = find(json, "added_tokens"))
    for (const Json& token : *added) {
      const std::string text = get_string(token, "content");
      const bool special = find_bool(token, "special").value_or(false);
      place(vocab, get_size(token, "id"), text, special ? kControl : kUserDefined);
    }
  return vocab;
}

// A merge as its two parts, from either form of the list.
std::pair<std::string, std::string> merge_parts(const Json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  if (!merge.is_string()) throw Error(ErrorKind::kCorrupt, "a merge is neither a string nor two");
  const auto text = merge.get<std::string>();
  const size_t space = text.find(' ', 1);
  if (space == std::string::npos) throw Error(ErrorKind::kCorrupt, cat("the merge '", text, "' is not two tokens"));
  return {text.substr(0, space), text.substr(space + 1)};
}

// The patterns with which the text is cut before merging, in the terms of gguf_pre_tokenizers.h.
void collect_patterns(const Json& step, std::vector<std::string>& patterns) {
  const std::string type = get_string(step, "type");
  if (type == "Sequence") {
    for (const Json& inner : get(step, "pretokenizers")) collect_patterns(inner, patterns);
  } else if (type == "ByteLevel") {
    if (find_bool(step, "use_regex").value_or(true)) patterns.emplace_back(kGpt2Pattern);
  } else if (type == "Digits") {
    patterns.emplace_back(find_bool(step, "individual_digits").value_or(false) ? R"(\p{N})" : R"(\p{N}+)");
  } else if (type == "Split" && get(step, "pattern").contains("Regex") && get_string(step, "behavior") == "Isolated" &&
             !find_bool(step, "invert").value_or(false)) {
    patterns.push_back(get_string(get(step, "pattern"), "Regex"));
  } else {
    unsupported(cat("pre-tokenizer ", type, " as used here"));
  }
}

void add_byte_level(const Json& json, const Vocabulary& vocab, GgufMetadata& metadata) {
  const Json& model = get(json, "model");
  std::vector<std::string> patterns;
  collect_patterns(get(json, "pre_tokenizer"), patterns);
  const GgufPreTokenizer* pre = match_gguf_pre_tokenizer(patterns, find_bool(model, "ignore_merges").value_or(false));
  if (!pre) unsupported(cat("cutting text by ", patterns.empty() ? "nothing" : patterns.front()));
  metadata.set_string("tokenizer.ggml.model", "gpt2");
  metadata.set_string("tokenizer.ggml.pre", pre->names.front());
  metadata.set_strings("tokenizer.ggml.tokens", vocab.tokens);
  metadata.set_i32s("tokenizer.ggml.token_type", vocab.types);
  std::vector<std::string> merges;
  for (const Json& merge : get(model, "merges")) {
    const auto [left, right] = merge_parts(merge);
    merges.push_back(cat(left, " ", right));
  }
  metadata.set_strings("tokenizer.ggml.merges", merges);
}

// SentencePiece merges the pair whose result has the best score: here the result of an earlier merge has the better
// one. Vocabularies that our reader made of a GGUF carry the scores themselves.
std::vector<float> scores_of(const Json& model, const Vocabulary& vocab) {
  std::vector<float> scores(vocab.tokens.size(), 0.0f);
  if (const Json* known = find(model, "scores"); known && known->size() == scores.size()) {
    for (size_t i = 0; i < scores.size(); ++i) scores[i] = (*known)[i].is_number() ? (*known)[i].get<float>() : 0.0f;
    return scores;
  }
  std::map<std::string, float, std::less<>> ranks;
  for (const Json& merge : get(model, "merges")) {
    const auto [left, right] = merge_parts(merge);
    ranks.emplace(left + right, -static_cast<float>(ranks.size()));
  }
  for (size_t i = 0; i < scores.size(); ++i)
    if (vocab.types[i] == kNormal) {
      const auto rank = ranks.find(vocab.tokens[i]);
      scores[i] = rank != ranks.end() ? rank->second : -static_cast<float>(ranks.size());
    }
  return scores;
}

bool mentions(const Json& json, std::string_view type) {
  if (json.is_object()) {
    const auto own = json.find("type");
    if (own != json.end() && own->is_string() && own->get<std::string>() == type) return true;
  }
  if (!json.is_structured()) return false;
  return std::any_of(json.begin(), json.end(), [&](const Json& inner) { return mentions(inner, type); });
}

void add_sentencepiece(const Json& json, Vocabulary& vocab, const std::optional<std::string>& proto,
                       GgufMetadata& metadata) {
  if (proto) {
    const std::vector<SentencePiece> pieces = sentencepiece_pieces(*proto);
    vocab.scores.assign(vocab.tokens.size(), 0.0f);
    for (size_t i = 0; i < std::min(pieces.size(), vocab.tokens.size()); ++i) {
      if (vocab.types[i] != kUserDefined) vocab.types[i] = static_cast<int32_t>(pieces[i].type);
      vocab.tokens[i] = pieces[i].text;
      vocab.scores[i] = pieces[i].score;
    }
  } else {
    vocab.scores = scores_of(get(json, "model"), vocab);
  }
  if (const auto unknown = json.is_object() ? find_string(get(json, "model"), "unk_token") : std::nullopt)
    if (const auto id = vocab.find(*unknown)) vocab.types[*id] = kUnknown;
  metadata.set_string("tokenizer.ggml.model", "llama");
  metadata.set_string("tokenizer.ggml.pre", "default");
  metadata.set_strings("tokenizer.ggml.tokens", vocab.tokens);
  metadata.set_f32s("tokenizer.ggml.scores", vocab.scores);
  metadata.set_i32s("tokenizer.ggml.token_type", vocab.types);
  const Json* normalizer = json.is_object() ? find(json, "normalizer") : nullptr;
  const Json* pre = json.is_object() ? find(json, "pre_tokenizer") : nullptr;
  const bool prefix =
      !json.is_object() || (normalizer && mentions(*normalizer, "Prepend")) ||
      (pre && mentions(*pre, "Metaspace") && find_string(*pre, "prepend_scheme").value_or("always") != "never");
  metadata.set_bool("tokenizer.ggml.add_space_prefix", prefix);
}

// Are there special tokens before and after the text? Nothing when the post-processor does not say.
std::optional<std::pair<bool, bool>> added_ends(const Json& post) {
  if (!post.is_object()) return std::nullopt;
  const std::string type = find_string(post, "type").value_or("");
  if (type == "Sequence") {
    for (const Json& inner : get(post, "processors"))
      if (const auto ends = added_ends(inner)) return ends;
    return std::nullopt;
  }
  if (type != "TemplateProcessing") return std::nullopt;
  const Json& single = get(post, "single");
  if (single.empty()) return std::nullopt;
  return std::pair(single.front().contains("SpecialToken"), single.back().contains("SpecialToken"));
}

class SideFiles {
 public:
  explicit SideFiles(const Source& source) : source_(source), names_(source.side_files()) {}
  std::optional<std::string> text(std::string_view name) const {
    if (std::find(names_.begin(), names_.end(), name) == names_.end()) return std::nullopt;
    return source_.side_file(name);
  }
  Json json(std::string_view name) const {
    const auto contents = text(name);
    return contents ? parse_json(*contents, name) : Json();
  }

 private:
  const Source& source_;
  std::vector<std::string> names_;
};

// A token's text: "<s>" or {"content": "<s>", ...}.
std::optional<std::string> token_text(const Json& config, std::string_view key) {
  if (!config.is_object()) return std::nullopt;
  const Json* value = find(config, key);
  if (!value) return std::nullopt;
  if (value->is_object()) return find_string(*value, "content");
  return value->is_string() ? std::optional(value->get<std::string>()) : std::nullopt;
}

void add_special_tokens(const Json& tokenizer_config, const Json& model_config, const Vocabulary& vocab,
                        GgufMetadata& metadata) {
  constexpr std::pair<std::string_view, std::string_view> kTokens[] = {
      {"bos", "bos"}, {"eos", "eos"}, {"unk", "unknown"}, {"pad", "padding"}};
  for (const auto& [name, gguf_name] : kTokens) {
    const std::string key = cat("tokenizer.ggml.", gguf_name, "_token_id");
    if (const auto text = token_text(tokenizer_config, cat(name, "_token")))
      if (const auto id = vocab.find(*text)) {
        metadata.set_u32(key, *id);
        continue;
      }
    const Json* id = find(model_config, cat(name, "_token_id"));
    if (id && id->is_array() && !id->empty()) id = &id->front();
    if (id && id->is_number_unsigned() && id->get<size_t>() < vocab.tokens.size())
      metadata.set_u32(key, id->get<uint32_t>());
  }
}

std::optional<std::string> chat_template(const SideFiles& files, const Json& tokenizer_config) {
  if (auto text = files.text("chat_template.jinja")) return text;
  const Json* value = tokenizer_config.is_object() ? find(tokenizer_config, "chat_template") : nullptr;
  if (!value) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  for (const Json& named : *value)  // a list of templates for different uses
    if (named.is_object() && find_string(named, "name") == "default") return find_string(named, "template");
  return std::nullopt;
}

}  // namespace

void add_gguf_vocabulary(const Source& source, size_t vocab_size, GgufMetadata& metadata) {
  const SideFiles files(source);
  const Json json = files.json("tokenizer.json");
  const auto proto = files.text("tokenizer.model");
  if (json.is_null() && !proto) {
    metadata.set_string("tokenizer.ggml.model", "none");
    return;
  }
  const Json tokenizer_config = files.json("tokenizer_config.json");
  Vocabulary vocab;
  std::optional<std::pair<bool, bool>> ends;
  if (json.is_null()) {
    vocab.tokens.assign(vocab_size, "");
    for (size_t i = 0; i < vocab_size; ++i) vocab.tokens[i] = cat("[PAD", i, "]");
    vocab.types.assign(vocab_size, kUnused);
    add_sentencepiece(json, vocab, proto, metadata);
    ends = std::pair(
        find_bool(tokenizer_config.is_object() ? tokenizer_config : Json::object(), "add_bos_token").value_or(true),
        false);
  } else {
    with_context([] { return "tokenizer.json"; },
                 [&] {
                   const Json& model = get(json, "model");
                   if (get_string(model, "type") != "BPE") unsupported(cat("a ", get_string(model, "type"), " model"));
                   const bool bytes = find_bool(model, "byte_fallback").value_or(false);
                   vocab = read_json_vocabulary(json, vocab_size, bytes);
                   if (bytes)
                     add_sentencepiece(json, vocab, proto, metadata);
                   else
                     add_byte_level(json, vocab, metadata);
                   if (const Json* post = find(json, "post_processor")) ends = added_ends(*post);
                 });
  }
  metadata.set_bool("tokenizer.ggml.add_bos_token", ends && ends->first);
  metadata.set_bool("tokenizer.ggml.add_eos_token", ends && ends->second);
  add_special_tokens(tokenizer_config, source.config(), vocab, metadata);
  if (const auto text = chat_template(files, tokenizer_config)) metadata.set_string("tokenizer.chat_template", *text);
}

}  // namespace nibble
