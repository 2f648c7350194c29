#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace nibble {

using TokenId = int32_t;

// Text <-> token ids. Immutable and thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Special tokens written in the text are recognised. `add_special`: add what the post-processor adds (BOS, EOS).
  // Throws Error(kUsage) on text that is not UTF-8, with the offset.
  virtual std::vector<TokenId> encode(std::string_view text, bool add_special) const = 0;
  // Bytes of the ids; `skip_special` leaves special tokens out. Invalid UTF-8 is replaced by U+FFFD. Throws on unknown
  // ids.
  virtual std::string decode(std::span<const TokenId> ids, bool skip_special) const = 0;
  virtual size_t vocab_size() const = 0;                                  // highest id + 1
  virtual std::optional<TokenId> find(std::string_view token) const = 0;  // id of a token as written in the vocabulary
  virtual std::string token(TokenId id) const = 0;  // as written in the vocabulary; throws on unknown ids
  virtual bool is_special(TokenId id) const = 0;
  virtual std::string kind() const = 0;  // "byte-level BPE", "byte-fallback BPE", "SentencePiece"
};

// Hugging Face tokenizer.json, for BPE models. Unknown models, normalizers, pre-tokenizers, decoders:
// Error(kUnsupported) naming them. "truncation" and "padding" are the caller's business and not applied.
std::unique_ptr<Tokenizer> make_tokenizer_from_json(const Json& tokenizer_json);

struct SentencePieceOptions {
  bool add_bos = true;  // what encode(add_special) adds, if the model has such a piece
  bool add_eos = false;
};
// SentencePiece's tokenizer.model (serialized ModelProto). Control pieces and <unk> written in the text are recognised.
std::unique_ptr<Tokenizer> make_tokenizer_from_sentencepiece(std::string_view model_proto,
                                                             const SentencePieceOptions& options = {});

// Decodes a stream of ids into text piece by piece: holds back bytes until they complete a UTF-8 character.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special) : tokenizer_(tokenizer), skip_special_(skip_special) {}
  std::string add(TokenId id);  // the text that became certain
  std::string finish();         // what was held back

 private:
  std::string fresh_text() const;

  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::vector<TokenId> pending_;  // context that was written already, then what is held back
  size_t context_ = 0;            // how many of them are context
  std::string emitted_;           // the context's text
};

}  // namespace nibble
