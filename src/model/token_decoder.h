#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/json.h"

namespace nibble {

// tokenizer.json's "decoder": from token strings to pieces of text, which are then joined. Immutable, thread-safe.
class TokenDecoder {
 public:
  virtual ~TokenDecoder() = default;
  virtual void apply(std::vector<std::string>& tokens) const = 0;
};

// Throws Error(kUnsupported) naming an unknown type, Error(kCorrupt) naming a wrong field.
std::unique_ptr<TokenDecoder> make_token_decoder(const Json& description);

}  // namespace nibble
