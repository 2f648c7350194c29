#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/chat_template.h"
#include "model/source.h"
#include "model/tokenizer.h"

namespace nibble {

// How a model wants conversations written.
class ChatFormat {
 public:
  // The template and the names of the special tokens that the model's side files give: chat_template.jinja, else
  // tokenizer_config.json's chat_template (of several, the one named "default"). Throws Error(kUsage) when there is
  // none.
  ChatFormat(const Source& source, const Tokenizer& tokenizer);

  // The ids of a conversation, ready for the assistant's answer or complete. Special tokens are those that the template
  // writes.
  std::vector<TokenId> encode(const std::vector<ChatMessage>& messages, bool for_answer = true) const;

 private:
  const Tokenizer& tokenizer_;
  ChatTemplate template_;
  Json variables_;
};

// The tokens that end a text, in rising order: those of generation_config.json, config.json and tokenizer_config.json.
// `tokenizer` may be null.
std::vector<TokenId> eos_tokens(const Source& source, const Tokenizer* tokenizer);
// The one to write between texts: tokenizer_config.json's, else the first of config.json's, else the first of
// generation_config.json's. Nothing when none is named.
std::optional<TokenId> text_end(const Source& source, const Tokenizer& tokenizer);

// Does a text start with BOS? auto: if the tokenizer adds it by itself.
enum class BosChoice : uint8_t { kNo, kAuto, kYes };
BosChoice parse_bos_choice(std::string_view text);  // "no", "auto", "yes"; throws Error(kUsage)
// The token that the choice means; `tokenizer` may be null. Throws Error(kUsage) where kYes finds none.
std::optional<TokenId> bos_token(BosChoice choice, const Source& source, const Tokenizer* tokenizer);

}  // namespace nibble
