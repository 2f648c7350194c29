#include "model/token_table.h"

#include <cstring>

#include "core/error.h"

namespace nibble {
namespace {

constexpr uint64_t kMultiplier = 0x9e3779b97f4a7c15u;

uint64_t mix(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a ^ kMultiplier) * (b ^ 0xe7037ed1a0b428dbu);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace

uint64_t hash_text(std::string_view text) {
  const char* data = text.data();
  size_t left = text.size();
  uint64_t state = kMultiplier * (left + 1);
  uint64_t word = 0;
  for (; left > 8; left -= 8, data += 8) {
    std::memcpy(&word, data, 8);
    state = mix(state, word);
  }
  word = 0;
  if (left > 0) std::memcpy(&word, data, left);
  return mix(state, word);
}

TokenTable::TokenTable(size_t count)
    : max_id_(static_cast<int64_t>(std::min<size_t>(2 * count + 65536, INT32_MAX / 2))) {
  size_t slots = 64;
  while (slots < 2 * count) slots *= 2;
  slots_.resize(slots);
  spans_.reserve(count);
}

void TokenTable::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  const size_t mask = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.id < 0) continue;
    size_t at = slot.hash & mask;
    while (slots_[at].id >= 0) at = (at + 1) & mask;
    slots_[at] = slot;
  }
}

void TokenTable::add(std::string_view token, int64_t id) {
  if (id < 0 || id > max_id_)
    throw Error(ErrorKind::kCorrupt, cat("token '", token, "' has id ", id, ", outside [0, ", max_id_, "]"));
  const auto index = static_cast<size_t>(id);
  if (has(static_cast<TokenId>(id)))
    throw Error(ErrorKind::kCorrupt,
                cat("tokens '", this->token(static_cast<TokenId>(id)), "' and '", token, "' share id ", id));
  if (2 * (count_ + 1) > slots_.size()) grow();
  const auto hash = static_cast<uint32_t>(hash_text(token));
  const size_t mask = slots_.size() - 1;
  size_t at = hash & mask;
  for (; slots_[at].id >= 0; at = (at + 1) & mask)
    if (slots_[at].hash == hash && this->token(slots_[at].id) == token)
      throw Error(ErrorKind::kCorrupt, cat("token '", token, "' has two ids, ", slots_[at].id, " and ", id));
  slots_[at] = {hash, static_cast<TokenId>(id)};
  if (index >= spans_.size()) spans_.resize(index + 1);
  spans_[index] = {text_.size(), token.size()};
  text_ += token;
  ++count_;
}

std::string_view TokenTable::token(TokenId id) const {
  const Span& span = spans_[static_cast<size_t>(id)];
  return std::string_view(text_).substr(span.begin, span.size);
}

TokenId TokenTable::find(std::string_view token) const {
  const auto hash = static_cast<uint32_t>(hash_text(token));
  const size_t mask = slots_.size() - 1;
  for (size_t at = hash & mask; slots_[at].id >= 0; at = (at + 1) & mask)
    if (slots_[at].hash == hash && this->token(slots_[at].id) == token) return slots_[at].id;
  return -1;
}

}  // namespace nibble
