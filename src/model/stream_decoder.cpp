#include "model/tokenizer.h"

namespace nibble {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";
// A character is at most four byte tokens: what does not end after that many more is broken, not unfinished.
constexpr size_t kMaxHeld = 8;

}  // namespace

std::string StreamDecoder::add(TokenId id) {
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  pending_.push_back(id);
  const std::string text = tokenizer_.decode(pending_, skip_special_);
  if (text.size() <= emitted_.size()) return {};
  if (text.ends_with(kReplacement) && pending_.size() - context_ < kMaxHeld) return {};
  std::string fresh = text.substr(emitted_.size());
  // The tokens just written stay as context: decoders treat the first token of a text differently.
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(context_));
  context_ = pending_.size();
  emitted_ = tokenizer_.decode(pending_, skip_special_);
  return fresh;
}

std::string StreamDecoder::finish() {
  const std::string text = tokenizer_.decode(pending_, skip_special_);
  std::string rest = text.size() > emitted_.size() ? text.substr(emitted_.size()) : "";
  pending_.clear();
  emitted_.clear();
  context_ = 0;
  return rest;
}

}  // namespace nibble
