#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"

namespace nibble {

// A token matched in the text before anything else happens to it. Fields as in tokenizer.json.
struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool single_word = false;  // not inside a word
  bool lstrip = false;       // swallows white space before it
  bool rstrip = false;       // and after it
  bool normalized = false;   // looked for in the normalized text
  bool special = false;      // skipped by decode(skip_special)
};

// Finds added tokens in text: leftmost first, of those the longest.
class AddedTokenMatcher {
 public:
  struct Part {
    size_t begin;
    size_t end;
    TokenId id;  // -1: ordinary text
  };

  // `token.content` is what is looked for; empty contents are ignored. Of equal contents the last one counts.
  void add(const AddedToken& token);
  bool empty() const { return tokens_.empty(); }
  // Covers `text` in order; parts are not empty except where white space was swallowed twice.
  void split(std::string_view text, std::vector<Part>& parts) const;

 private:
  struct Node {
    std::vector<std::pair<unsigned char, uint32_t>> children;  // sorted by byte
    int32_t token = -1;                                        // index into tokens_
  };
  // The longest token at `text[at..]`, or -1.
  int32_t longest(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_{1};
  std::array<uint32_t, 256> first_{};  // nodes_[0]'s children by byte; 0: none
};

}  // namespace nibble
