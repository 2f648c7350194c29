#pragma once
#include <string>
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

  // The ids of a conversation, ready for the assistant's answer. Special tokens are those that the template writes.
  std::vector<TokenId> encode(const std::vector<ChatMessage>& messages) const;

 private:
  const Tokenizer& tokenizer_;
  ChatTemplate template_;
  Json variables_;
};

// The tokens that end a text, in rising order: those of generation_config.json, config.json and tokenizer_config.json.
// `tokenizer` may be null.
std::vector<TokenId> eos_tokens(const Source& source, const Tokenizer* tokenizer);

}  // namespace nibble
