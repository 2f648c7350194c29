#pragma once
#include <optional>
#include <string>

#include "core/json.h"
#include "formats/gguf.h"

namespace nibble {

// What a GGUF's vocabulary (tokenizer.ggml.*) becomes in a Hugging Face folder.
struct GgufTokenizerFiles {
  // tokenizer.json. For SentencePiece vocabularies ("llama") the model additionally carries "scores" (an extension that
  // other readers ignore): with them our reader merges by score exactly as SentencePiece does.
  Json tokenizer;
  Json tokenizer_config;                     // tokenizer_config.json, chat_template included
  std::optional<std::string> chat_template;  // chat_template.jinja
};

// False for files that say they have none ("none"), or say nothing.
bool has_tokenizer(const Gguf& gguf);
// Throws Error(kUnsupported) naming an unknown tokenizer.ggml.model or .pre.
GgufTokenizerFiles tokenizer_from_gguf(const Gguf& gguf);

}  // namespace nibble
