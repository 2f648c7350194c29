#include <algorithm>
#include <map>
#include <mutex>

#include "core/checked.h"
#include "core/text.h"
#include "model/added_tokens.h"
#include "model/bpe_from_json.h"
#include "model/normalizer.h"
#include "model/post_processor.h"
#include "model/pre_tokenizer.h"
#include "model/token_decoder.h"
#include "model/tokenizer.h"

namespace nibble {
namespace {

class JsonTokenizer final : public Tokenizer {
 public:
  explicit JsonTokenizer(const Json& json);

  std::vector<TokenId> encode(std::string_view text, bool add_special) const override;
  std::string decode(std::span<const TokenId> ids, bool skip_special) const override;
  size_t vocab_size() const override { return size_; }
  std::optional<TokenId> find(std::string_view token) const override;
  std::string token(TokenId id) const override;
  bool is_special(TokenId id) const override;
  std::string kind() const override { return kind_; }

 private:
  // Scratch memory is lent to one call at a time and keeps its cache of words between calls.
  class Loan {
   public:
    explicit Loan(const JsonTokenizer& owner) : owner_(owner) {
      const std::lock_guard lock(owner_.mutex_);
      if (owner_.idle_.empty()) {
        scratch_ = std::make_unique<Bpe::Scratch>();
      } else {
        scratch_ = std::move(owner_.idle_.back());
        owner_.idle_.pop_back();
      }
    }
    ~Loan() {
      const std::lock_guard lock(owner_.mutex_);
      try {
        owner_.idle_.push_back(std::move(scratch_));
      } catch (const std::bad_alloc&) {  // then it is freed
      }
    }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    Bpe::Scratch& operator*() const { return *scratch_; }

   private:
    const JsonTokenizer& owner_;
    std::unique_ptr<Bpe::Scratch> scratch_;
  };

  void read_added_tokens(const Json& list);
  void check_post_processor() const;
  void encode_ordinary(std::string_view text, bool at_start, Bpe::Scratch& scratch, std::vector<TokenId>& out) const;
  const AddedToken* find_added(TokenId id) const;
  Error unknown_id(TokenId id) const {
    return Error(ErrorKind::kUsage, cat("token id ", id, " is not in the vocabulary, whose ids are below ", size_));
  }

  TokenTable vocab_;
  Bpe bpe_;
  std::unique_ptr<Normalizer> normalizer_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::unique_ptr<TokenDecoder> decoder_;
  PostProcessor post_processor_;
  std::map<TokenId, AddedToken> added_;
  std::map<std::string, TokenId, std::less<>> added_ids_;
  std::map<TokenId, std::string>
      spelled_;  // added tokens that normalization changes: how they are looked for and decoded
  AddedTokenMatcher raw_matcher_;
  AddedTokenMatcher normalized_matcher_;
  size_t size_ = 0;
  std::string kind_;

  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Bpe::Scratch>> idle_;  // guarded by mutex_
};

const Json& model_of(const Json& json) {
  if (const auto version = find_string(json, "version"); version && *version != "1.0")
    throw Error(ErrorKind::kUnsupported, cat("tokenizer.json version '", *version, "' is not supported, only 1.0"));
  return get(json, "model");
}

// Does any part of `description` have this type?
bool mentions_type(const Json* description, std::string_view type) {
  if (!description || !description->is_structured()) return false;
  if (description->is_object()) {
    const auto it = description->find("type");
    if (it != description->end() && it->is_string() && it->get_ref<const std::string&>() == type) return true;
  }
  return std::any_of(description->begin(), description->end(),
                     [&](const Json& part) { return mentions_type(&part, type); });
}

JsonTokenizer::JsonTokenizer(const Json& json)
    : vocab_(vocabulary_from_json(model_of(json))), bpe_(bpe_from_json(model_of(json), vocab_)) {
  if (const Json* part = nibble::find(json, "normalizer")) normalizer_ = make_normalizer(*part);
  if (const Json* part = nibble::find(json, "pre_tokenizer")) pre_tokenizer_ = make_pre_tokenizer(*part);
  if (const Json* part = nibble::find(json, "decoder")) decoder_ = make_token_decoder(*part);
  if (const Json* part = nibble::find(json, "post_processor")) post_processor_ = make_post_processor(*part);
  size_ = vocab_.size();
  if (const Json* part = nibble::find(json, "added_tokens")) read_added_tokens(*part);
  check_post_processor();
  const bool byte_level = mentions_type(nibble::find(json, "pre_tokenizer"), "ByteLevel") ||
                          mentions_type(nibble::find(json, "normalizer"), "ByteLevel");
  kind_ = byte_level ? "byte-level BPE" : bpe_.options().byte_fallback ? "byte-fallback BPE" : "BPE";
}

void JsonTokenizer::read_added_tokens(const Json& list) {
  if (!list.is_array()) throw Error(ErrorKind::kCorrupt, "'added_tokens' should be an array");
  const size_t highest = 2 * (vocab_.size() + list.size()) + 65536;
  for (size_t i = 0; i < list.size(); ++i) {
    with_context([&] { return cat("added_tokens[", i, "]"); },
                 [&] {
                   AddedToken token;
                   token.id = checked_cast<TokenId>(get_size(list[i], "id"), "'id'");
                   token.content = get_string(list[i], "content");
                   token.single_word = find_bool(list[i], "single_word").value_or(false);
                   token.lstrip = find_bool(list[i], "lstrip").value_or(false);
                   token.rstrip = find_bool(list[i], "rstrip").value_or(false);
                   token.special = find_bool(list[i], "special").value_or(false);
                   token.normalized = find_bool(list[i], "normalized").value_or(!token.special);
                   if (token.content.empty()) return;  // the reference library ignores it
                   const auto clash = [&](std::string_view other, TokenId id) {
                     return Error(ErrorKind::kCorrupt,
                                  cat("'", token.content, "' has id ", token.id, ", but '", other, "' has id ", id));
                   };
                   if (const TokenId id = vocab_.find(token.content); id >= 0 && id != token.id)
                     throw clash(token.content, id);
                   if (vocab_.has(token.id) && vocab_.token(token.id) != token.content)
                     throw clash(vocab_.token(token.id), token.id);
                   if (const auto it = added_.find(token.id); it != added_.end() && it->second.content != token.content)
                     throw clash(it->second.content, token.id);
                   if (const auto it = added_ids_.find(token.content); it != added_ids_.end() && it->second != token.id)
                     throw clash(token.content, it->second);
                   if (static_cast<size_t>(token.id) > highest)
                     throw Error(ErrorKind::kCorrupt, cat("id ", token.id, " is absurdly large"));
                   size_ = std::max(size_, static_cast<size_t>(token.id) + 1);
                   added_ids_[token.content] = token.id;
                   added_[token.id] = std::move(token);
                 });
  }
  for (const auto& [id, token] : added_) {
    if (!token.normalized) {
      raw_matcher_.add(token);
      continue;
    }
    AddedToken pattern = token;
    if (normalizer_) normalizer_->apply(pattern.content);
    if (pattern.content != token.content) spelled_[id] = pattern.content;
    normalized_matcher_.add(pattern);
  }
}

void JsonTokenizer::check_post_processor() const {
  for (const auto* ids : {&post_processor_.before, &post_processor_.after})
    for (const TokenId id : *ids)
      if (!find_added(id) && !vocab_.has(id))
        throw Error(ErrorKind::kCorrupt, cat("post_processor adds token id ", id, ", which is not in the vocabulary"));
}

const AddedToken* JsonTokenizer::find_added(TokenId id) const {
  const auto it = added_.find(id);
  return it == added_.end() ? nullptr : &it->second;
}

std::vector<TokenId> JsonTokenizer::encode(std::string_view text, bool add_special) const {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos)
    throw Error(ErrorKind::kUsage, cat("the text is not UTF-8 at byte ", bad));
  const Loan scratch(*this);
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 3 + 8);
  if (add_special) ids = post_processor_.before;
  std::vector<AddedTokenMatcher::Part> raw_parts, parts;
  std::string normalized;
  raw_matcher_.split(text, raw_parts);
  for (const auto& raw : raw_parts) {
    if (raw.id >= 0) {
      ids.push_back(raw.id);
      continue;
    }
    std::string_view segment = text.substr(raw.begin, raw.end - raw.begin);
    bool at_start = raw.begin == 0;
    if (normalizer_) {
      normalized = segment;
      at_start = normalizer_->apply(normalized) && at_start;
      segment = normalized;
    }
    normalized_matcher_.split(segment, parts);
    for (const auto& part : parts) {
      if (part.id >= 0)
        ids.push_back(part.id);
      else
        encode_ordinary(segment.substr(part.begin, part.end - part.begin), at_start && part.begin == 0, *scratch, ids);
    }
  }
  if (add_special) ids.insert(ids.end(), post_processor_.after.begin(), post_processor_.after.end());
  return ids;
}

void JsonTokenizer::encode_ordinary(std::string_view text, bool at_start, Bpe::Scratch& scratch,
                                    std::vector<TokenId>& out) const {
  if (text.empty()) return;
  if (!pre_tokenizer_) return bpe_.encode(text, scratch, out);
  PieceList list;
  list.text = text;
  list.pieces = {{0, text.size()}};
  list.at_start = at_start;
  pre_tokenizer_->apply(list);
  for (const auto& piece : list.pieces)
    bpe_.encode(list.text.substr(piece.begin, piece.end - piece.begin), scratch, out);
}

std::string JsonTokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const TokenId id : ids) {
    if (const AddedToken* added = find_added(id)) {
      if (skip_special && added->special) continue;
      const auto spelled = spelled_.find(id);
      tokens.push_back(spelled == spelled_.end() ? added->content : spelled->second);
    } else if (vocab_.has(id)) {
      tokens.emplace_back(vocab_.token(id));
    } else {
      throw unknown_id(id);
    }
  }
  if (!decoder_) return join(tokens, " ");
  if (!tokens.empty()) decoder_->apply(tokens);
  return join(tokens, "");
}

std::optional<TokenId> JsonTokenizer::find(std::string_view token) const {
  if (const auto it = added_ids_.find(token); it != added_ids_.end()) return it->second;
  const TokenId id = vocab_.find(token);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::string JsonTokenizer::token(TokenId id) const {
  if (const AddedToken* added = find_added(id)) return added->content;
  if (!vocab_.has(id)) throw unknown_id(id);
  return std::string(vocab_.token(id));
}

bool JsonTokenizer::is_special(TokenId id) const {
  const AddedToken* added = find_added(id);
  return added && added->special;
}

}  // namespace

std::unique_ptr<Tokenizer> make_tokenizer_from_json(const Json& tokenizer_json) {
  return std::make_unique<JsonTokenizer>(tokenizer_json);
}

}  // namespace nibble
