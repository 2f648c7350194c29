#include "pipeline/generate.h"

#include <algorithm>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/usage.h"

namespace nibble {
namespace {

// Tokens read at once: enough that every weight is loaded once for many of them, few enough that an interrupt is
// answered.
constexpr size_t kChunk = 512;

}  // namespace

std::string_view name(StopReason reason) {
  switch (reason) {
    case StopReason::kEos:
      return "eos";
    case StopReason::kLength:
      return "length";
    case StopReason::kContext:
      return "context";
    case StopReason::kInterrupted:
      break;
  }
  return "interrupted";
}

void Session::ensure_room(size_t tokens) {
  if (cache_ && cache_->capacity() >= tokens) return;
  cache_.reset();
  held_.clear();
  // A conversation grows, and a new cache must be filled anew. Room costs nothing until it is used.
  cache_ = model_.make_cache(std::min(model_.config().max_positions, tokens + 4096), cache_type_);
}

void Session::forward(std::span<const TokenId> tokens) {
  logits_.resize(model_.config().vocab_size);
  model_.forward(tokens, *cache_, matrix(logits_.data(), 1, logits_.size()));
  held_.insert(held_.end(), tokens.begin(), tokens.end());
}

bool Session::read(std::span<const TokenId> text, size_t reserve, Progress& progress) {
  const size_t context = model_.config().max_positions;
  if (text.empty()) throw Error(ErrorKind::kUsage, "the prompt has no tokens: there is nothing to continue");
  if (text.size() > context)
    throw Error(ErrorKind::kUsage,
                cat("the prompt has ", text.size(), " tokens, more than the model's context of ", context));
  ensure_room(text.size() + std::min(reserve, context - text.size()));

  // The last token is always read again: its logits are what comes next.
  const auto same = std::mismatch(held_.begin(), held_.end(), text.begin(), text.end()).first;
  const size_t known = std::min(static_cast<size_t>(same - held_.begin()), text.size() - 1);
  cache_->truncate(known);
  held_.resize(known);

  const double start = wall_seconds();
  for (size_t i = known; i < text.size(); i += kChunk) {
    if (interrupted()) return false;
    forward(text.subspan(i, std::min(kChunk, text.size() - i)));
    progress.update(std::min(i + kChunk, text.size()), text.size(), "reading the prompt");
  }
  prefilled_ = text.size() - known;
  prefill_seconds_ = wall_seconds() - start;
  return true;
}

Generation Session::write(Sampler& sampler, const GenerateOptions& options,
                          const std::function<void(TokenId)>& on_token) {
  Generation out;
  sampler.accept(held_);
  const double start = wall_seconds();
  while (out.tokens.size() < options.max_tokens) {
    if (interrupted()) {
      out.stop = StopReason::kInterrupted;
      break;
    }
    const TokenId token = sampler.sample(logits_);
    out.tokens.push_back(token);
    on_token(token);
    if (std::find(options.eos.begin(), options.eos.end(), token) != options.eos.end()) {
      out.stop = StopReason::kEos;
      break;
    }
    if (out.tokens.size() == options.max_tokens) break;
    if (cache_->size() >= model_.config().max_positions) {
      out.stop = StopReason::kContext;
      break;
    }
    forward(std::span(&token, 1));
    ++out.decoded;
  }
  out.seconds = wall_seconds() - start;
  return out;
}

}  // namespace nibble
