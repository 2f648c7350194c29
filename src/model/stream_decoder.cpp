#include <algorithm>

#include "model/tokenizer.h"

namespace nibble {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";
// Bytes of an unfinished character come out as U+FFFD: as one, or as one for each of at most three bytes.
constexpr size_t kMaxUnfinished = 3;
// Characters end within four tokens. More than this waiting is garbage, and need not be kept to be decoded again.
constexpr size_t kMaxWaiting = 64;

}  // namespace

std::string StreamDecoder::add(TokenId id) {
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  pending_.push_back(id);
  const std::string text = tokenizer_.decode(pending_, skip_special_);
  std::string_view certain = text;
  if (pending_.size() - context_ < kMaxWaiting)
    for (size_t i = 0; i < kMaxUnfinished && certain.ends_with(kReplacement); ++i)
      certain.remove_suffix(kReplacement.size());
  // An unfinished character may spoil what was decoded before it; then the text only seems to have changed.
  if (certain.size() < text.size() && !certain.starts_with(emitted_)) return {};
  std::string fresh(certain.substr(std::min(emitted_.size(), certain.size())));
  if (certain.size() < text.size()) {
    emitted_ = certain;
    return fresh;
  }
  if (fresh.empty()) return fresh;
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
