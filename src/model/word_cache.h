#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/token_table.h"

namespace nibble {

// Remembers the ids of the words seen, since text repeats itself. Forgets everything when full. Not thread-safe.
class WordCache {
 public:
  static constexpr size_t kMaxWord = 256;  // bytes; longer words hardly repeat

  // The ids of `word`, or nothing. Valid until the next put().
  const std::span<const TokenId>* get(std::string_view word) {
    if (slots_.empty()) return nullptr;
    const uint64_t hash = hash_text(word);
    for (size_t at = hash & (kSlots - 1); slots_[at].hash != 0; at = (at + 1) & (kSlots - 1)) {
      const Slot& slot = slots_[at];
      if (slot.hash != (hash | 1) || slot.text_size != word.size()) continue;
      if (std::memcmp(text_.data() + slot.text, word.data(), word.size()) != 0) continue;
      found_ = std::span<const TokenId>(ids_).subspan(slot.ids, slot.ids_size);
      return &found_;
    }
    return nullptr;
  }

  // `word` is at most kMaxWord bytes and not in the cache.
  void put(std::string_view word, std::span<const TokenId> ids) {
    if (slots_.empty() || used_ == kSlots / 2) {
      slots_.assign(kSlots, Slot{});
      text_.clear();
      ids_.clear();
      used_ = 0;
    }
    const uint64_t hash = hash_text(word);
    size_t at = hash & (kSlots - 1);
    while (slots_[at].hash != 0) at = (at + 1) & (kSlots - 1);
    slots_[at] = {hash | 1, static_cast<uint32_t>(text_.size()), static_cast<uint32_t>(ids_.size()),
                  static_cast<uint16_t>(word.size()), static_cast<uint16_t>(ids.size())};
    text_ += word;
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    ++used_;
  }

 private:
  static constexpr size_t kSlots = size_t{1} << 17;
  struct Slot {
    uint64_t hash = 0;  // 0: empty; the lowest bit of others is set
    uint32_t text = 0;
    uint32_t ids = 0;
    uint16_t text_size = 0;
    uint16_t ids_size = 0;
  };
  std::vector<Slot> slots_;
  std::string text_;
  std::vector<TokenId> ids_;
  std::span<const TokenId> found_;
  size_t used_ = 0;
};

}  // namespace nibble
