#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace nibble {

// A stretch of text on its way to becoming words: non-empty pieces of `text`, in order. Characters between pieces are
// dropped.
struct PieceList {
  struct Piece {
    size_t begin;
    size_t end;
  };
  std::string_view text;  // what the pieces index: the caller's text, or `own`
  std::string own;        // rewritten text
  std::vector<Piece> pieces;
  bool at_start = false;  // the first piece begins where the whole input begins

  // Makes `rewritten` the text.
  void rewrite(std::string rewritten) {
    own = std::move(rewritten);
    text = own;
  }
};

// tokenizer.json's "pre_tokenizer". Immutable, thread-safe.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(PieceList& list) const = 0;
};

// Throws Error(kUnsupported) naming an unknown type, Error(kCorrupt) naming a wrong field.
std::unique_ptr<PreTokenizer> make_pre_tokenizer(const Json& description);

}  // namespace nibble
