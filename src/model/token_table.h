#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"

namespace nibble {

// A fast hash of short strings; not for anything that must resist an attacker beyond linear probing's patience.
uint64_t hash_text(std::string_view text);

// Token strings by id and ids by string. Ids may have holes.
class TokenTable {
 public:
  // `count` tokens are going to be added: bounds the ids that are believed (twice that and some).
  explicit TokenTable(size_t count);
  // Throws Error(kCorrupt) for a negative or absurdly large id, an id or a string added before.
  void add(std::string_view token, int64_t id);

  size_t size() const { return spans_.size(); }  // highest id + 1
  bool has(TokenId id) const {
    return id >= 0 && static_cast<size_t>(id) < spans_.size() && spans_[static_cast<size_t>(id)].begin != kHole;
  }
  std::string_view token(TokenId id) const;  // of an id that has()
  // Id of `token`, or -1.
  TokenId find(std::string_view token) const;

 private:
  static constexpr size_t kHole = SIZE_MAX;
  struct Span {
    size_t begin = kHole;
    size_t size = 0;
  };
  struct Slot {
    uint32_t hash = 0;
    TokenId id = -1;
  };
  void grow();

  int64_t max_id_;
  size_t count_ = 0;
  std::string text_;
  std::vector<Span> spans_;
  std::vector<Slot> slots_;  // open addressing, a power of two
};

}  // namespace nibble
