#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/json.h"

namespace nibble {

// What tokenizer.json's "normalizer" does to a stretch of text before it is tokenized. Immutable, thread-safe.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Valid UTF-8 in and out. Returns the bytes that were taken away at the front: where in the text the result begins.
  virtual size_t apply(std::string& text) const = 0;
};

// Throws Error(kUnsupported) naming an unknown type, Error(kCorrupt) naming a wrong field.
std::unique_ptr<Normalizer> make_normalizer(const Json& description);

}  // namespace nibble
