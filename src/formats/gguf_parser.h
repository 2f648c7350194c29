#pragma once
#include "formats/gguf.h"

namespace nibble {

// Builds Gguf objects; shared by the parser and the opener of split files, of no use elsewhere.
class GgufParser {
 public:
  // One file; throws without naming it.
  static std::shared_ptr<Gguf> parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner);
  // Appends the tensors of the next part.
  static void append(Gguf& all, Gguf& part);
};

}  // namespace nibble
