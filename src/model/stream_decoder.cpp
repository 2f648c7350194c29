#include "model/tokenizer.h"

namespace nibble {
namespace {

// What an unfinished character comes out as, but also a character in its own right.
constexpr std::string_view kReplacement = "\xef\xbf\xbd";
// Characters end within four tokens: when this many wait, they are garbage and need not be decoded again and again.
constexpr size_t kMaxWaiting = 64;

}  // namespace

// What is waiting adds to the text.
std::string StreamDecoder::fresh_text() const {
  const std::string text = tokenizer_.decode(pending_, skip_special_);
  if (text.starts_with(emitted_)) return text.substr(emitted_.size());
  // Garbage can spoil what was decoded before it (runs of byte tokens are text as a whole or not at all).
  return tokenizer_.decode(std::span(pending_).subspan(context_), skip_special_);
}

std::string StreamDecoder::add(TokenId id) {
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  pending_.push_back(id);
  std::string fresh = fresh_text();
  if (fresh.empty()) return fresh;
  if (fresh.ends_with(kReplacement) && pending_.size() - context_ < kMaxWaiting) return {};
  // The tokens just written stay as context: decoders treat the first token of a text differently.
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(context_));
  context_ = pending_.size();
  emitted_ = tokenizer_.decode(pending_, skip_special_);
  return fresh;
}

std::string StreamDecoder::finish() {
  std::string rest = fresh_text();
  pending_.clear();
  emitted_.clear();
  context_ = 0;
  return rest;
}

}  // namespace nibble
