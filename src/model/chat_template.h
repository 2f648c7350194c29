#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace nibble {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

// A Jinja template as models ship them (tokenizer_config.json's chat_template). Immutable, thread-safe.
class ChatTemplate {
 public:
  // Throws Error(kUnsupported) with line and column for what the interpreter does not know.
  explicit ChatTemplate(std::string_view jinja);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // `variables` are further names the template may read (bos_token, eos_token, ...). The template's own
  // raise_exception() becomes Error(kUsage).
  std::string render(const std::vector<ChatMessage>& messages, bool add_generation_prompt, const Json& variables) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble
