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
  // Valid UTF-8 in and out. Does the result still begin where the text began? Not if characters at the front were
  // dropped or several were replaced at once.
  virtual bool apply(std::string& text) const = 0;
};

// Throws Error(kUnsupported) naming an unknown type, Error(kCorrupt) naming a wrong field.
std::unique_ptr<Normalizer> make_normalizer(const Json& description);

}  // namespace nibble
