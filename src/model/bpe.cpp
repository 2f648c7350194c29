#include "model/bpe.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "core/error.h"
#include "model/token_text.h"

namespace nibble {
namespace {

constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
constexpr size_t kWholeWord = 64;   // bytes: words up to this are encoded without looking for places to cut
constexpr size_t kShortMerge = 24;  // symbols: up to this a scan for the lowest rank beats a heap

uint64_t pair_key(uint32_t left, uint32_t right) { return (uint64_t{left} << 32) | right; }
size_t spread(uint64_t key) { return static_cast<size_t>((key * 0x9e3779b97f4a7c15u) >> 20); }

std::string byte_token(unsigned byte) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  return {'<', '0', 'x', kHex[byte >> 4], kHex[byte & 15], '>'};
}

}  // namespace

Bpe::Bpe(const TokenTable& vocab, BpeOptions options)
    : vocab_(&vocab), options_(std::move(options)), seams_((size_t{1} << kSeamBits) / 64) {
  // A symbol's spelling depends on its place in the word when there are affixes: then words stay whole.
  can_cut_ = options_.continuing_subword_prefix.empty() && options_.end_of_word_suffix.empty();
  for (size_t c = 0; c < kDirectChars; ++c) {
    std::string text;
    append_char(text, static_cast<char32_t>(c));
    direct_[c] = vocab.find(text);
  }
  byte_ids_.fill(-1);
  if (options_.byte_fallback)
    for (unsigned byte = 0; byte < 256; ++byte) byte_ids_[byte] = vocab.find(byte_token(byte));
  if (options_.unk_token) unk_id_ = vocab.find(*options_.unk_token);
}

void Bpe::reserve_pairs(size_t count) {
  size_t slots = 16;
  while (slots < 2 * count) slots *= 2;
  pairs_.assign(slots, Pair{});
}

void Bpe::set_pair(uint32_t left, uint32_t right, uint32_t rank, uint32_t merged) {
  const uint64_t key = pair_key(left, right);
  const size_t mask = pairs_.size() - 1;
  size_t at = spread(key) & mask;
  while (pairs_[at].key != kNoPair && pairs_[at].key != key) at = (at + 1) & mask;
  pairs_[at] = {key, rank, merged};
}

const Bpe::Pair* Bpe::find_pair(uint32_t left, uint32_t right) const {
  const uint64_t key = pair_key(left, right);
  const size_t mask = pairs_.size() - 1;
  for (size_t at = spread(key) & mask; pairs_[at].key != kNoPair; at = (at + 1) & mask)
    if (pairs_[at].key == key) return &pairs_[at];
  return nullptr;
}

namespace {
size_t seam(char32_t left, char32_t right, size_t bits) {
  return static_cast<size_t>(
      (pair_key(static_cast<uint32_t>(left), static_cast<uint32_t>(right)) * 0xd1342543de82ef95u) >> (64 - bits));
}
}  // namespace

void Bpe::add_seams(std::string_view token) {
  char32_t left = 0;
  for (size_t at = 0; at < token.size();) {
    const bool first = at == 0;
    const char32_t right = next_char(token, at);
    if (!first) {
      const size_t bit = seam(left, right, kSeamBits);
      seams_[bit / 64] |= uint64_t{1} << (bit % 64);
    }
    left = right;
  }
}

bool Bpe::has_seam(char32_t left, char32_t right) const {
  const size_t bit = seam(left, right, kSeamBits);
  return (seams_[bit / 64] >> (bit % 64) & 1) != 0;
}

Bpe Bpe::from_merges(const TokenTable& vocab, const std::vector<Merge>& merges, BpeOptions options) {
  Bpe bpe(vocab, std::move(options));
  bpe.reserve_pairs(merges.size());
  const std::string_view prefix = bpe.options_.continuing_subword_prefix;
  std::string merged;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string_view left = merges[rank].first;
    const std::string_view right = merges[rank].second;
    const auto id_of = [&](std::string_view token) {
      const TokenId id = vocab.find(token);
      if (id < 0)
        throw Error(ErrorKind::kCorrupt, cat("merge ", rank, " ('", left, "' + '", right, "') needs token '", token,
                                             "', which is not in the vocabulary"));
      return static_cast<uint32_t>(id);
    };
    if (right.size() < prefix.size())
      throw Error(ErrorKind::kCorrupt,
                  cat("merge ", rank, ": '", right, "' is shorter than continuing_subword_prefix"));
    merged.assign(left).append(right.substr(prefix.size()));
    const uint32_t left_id = id_of(left);
    const uint32_t right_id = id_of(right);
    // A pair listed twice counts where it stands last, as in the reference library.
    bpe.set_pair(left_id, right_id, static_cast<uint32_t>(rank), id_of(merged));
    bpe.add_seams(merged);
  }
  return bpe;
}

Bpe Bpe::from_scores(const TokenTable& vocab, const std::vector<float>& scores, BpeOptions options) {
  Bpe bpe(vocab, std::move(options));
  std::vector<TokenId> order;
  for (size_t i = 0; i < vocab.size() && i < scores.size(); ++i)
    if (const auto id = static_cast<TokenId>(i); vocab.has(id) && !std::isnan(scores[i])) order.push_back(id);
  const auto score = [&](TokenId id) { return scores[static_cast<size_t>(id)]; };
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return score(a) > score(b); });

  // Symbols of single characters that are no tokens themselves.
  std::set<std::string, std::less<>> loose;
  for (const TokenId id : order) {
    const std::string_view token = vocab.token(id);
    if (char_length(token.empty() ? ' ' : token[0]) >= token.size()) continue;
    for (size_t at = 0; at < token.size(); at += char_length(token[at]))
      if (const auto c = token.substr(at, char_length(token[at])); vocab.find(c) < 0) loose.emplace(c);
  }
  bpe.loose_chars_.assign(loose.begin(), loose.end());
  for (size_t i = 0; i < bpe.loose_chars_.size(); ++i)
    bpe.loose_ids_.emplace_back(bpe.loose_chars_[i], static_cast<uint32_t>(vocab.size() + i));
  const auto symbol = [&](std::string_view text) -> int64_t {
    if (const TokenId id = vocab.find(text); id >= 0) return id;
    size_t at = 0;
    const char32_t c = next_char(text, at);
    return at == text.size() ? bpe.find_symbol(c, text) : -1;
  };

  size_t total = 0;
  for (const TokenId id : order) total += count_chars(vocab.token(id));
  bpe.reserve_pairs(total);
  uint32_t rank = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && score(order[i]) != score(order[i - 1])) ++rank;  // equal scores share a rank: then the leftmost wins
    const std::string_view token = vocab.token(order[i]);
    if (token.empty()) continue;
    for (size_t at = char_length(token[0]); at < token.size(); at += char_length(token[at])) {
      const int64_t left = symbol(token.substr(0, at));
      const int64_t right = symbol(token.substr(at));
      if (left < 0 || right < 0) continue;
      bpe.set_pair(static_cast<uint32_t>(left), static_cast<uint32_t>(right), rank, static_cast<uint32_t>(order[i]));
      bpe.add_seams(token);
    }
  }
  return bpe;
}

int64_t Bpe::find_symbol(char32_t c, std::string_view bytes) const {
  const int64_t id = c < kDirectChars ? direct_[c] : vocab_->find(bytes);
  if (id >= 0 || loose_ids_.empty()) return id;
  const auto it = std::lower_bound(loose_ids_.begin(), loose_ids_.end(), bytes,
                                   [](const auto& entry, std::string_view key) { return entry.first < key; });
  return it != loose_ids_.end() && it->first == bytes ? int64_t{it->second} : -1;
}

void Bpe::encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const {
  if (options_.ignore_merges)
    if (const TokenId id = vocab_->find(word); id >= 0) return out.push_back(id);
  if (word.size() <= kWholeWord || !can_cut_) return encode_part(word, scratch, out);
  size_t begin = 0;
  size_t at = 0;
  char32_t left = next_char(word, at);
  bool left_known = find_symbol(left, word.substr(0, at)) >= 0;
  while (at < word.size()) {
    const size_t here = at;
    const char32_t right = next_char(word, at);
    const bool right_known = find_symbol(right, word.substr(here, at - here)) >= 0;
    // Unknown characters stay with their neighbours: runs of them may be fused.
    if (left_known && right_known && !has_seam(left, right)) {
      encode_part(word.substr(begin, here - begin), scratch, out);
      begin = here;
    }
    left = right;
    left_known = right_known;
  }
  encode_part(word.substr(begin), scratch, out);
}

void Bpe::encode_part(std::string_view part, Scratch& scratch, std::vector<TokenId>& out) const {
  const bool cached = part.size() <= WordCache::kMaxWord;
  if (cached) {
    if (const auto* ids = scratch.cache.get(part)) {
      out.insert(out.end(), ids->begin(), ids->end());
      return;
    }
  }
  if (part.size() >= kNone)
    throw Error(ErrorKind::kUsage, "a word of 4 GiB or more cannot be tokenized; split the text");
  make_symbols(part, scratch.ids);
  if (scratch.ids.size() <= kShortMerge)
    merge_short(scratch);
  else
    merge_long(scratch);
  scratch.word.clear();
  for (const uint32_t id : scratch.ids) emit(id, scratch.word);
  if (cached) scratch.cache.put(part, scratch.word);
  out.insert(out.end(), scratch.word.begin(), scratch.word.end());
}

void Bpe::make_symbols(std::string_view part, std::vector<uint32_t>& ids) const {
  ids.clear();
  bool unknown = false;  // an unknown character waits to be written, perhaps fused with the next one
  const auto flush = [&] {
    if (unknown) ids.push_back(static_cast<uint32_t>(unk_id_));
    unknown = false;
  };
  std::string spelled;
  for (size_t at = 0; at < part.size();) {
    const size_t begin = at;
    const char32_t c = next_char(part, at);
    std::string_view text = part.substr(begin, at - begin);
    int64_t id = 0;
    if (can_cut_) {
      id = find_symbol(c, text);
    } else {
      spelled.clear();
      if (begin > 0) spelled += options_.continuing_subword_prefix;
      spelled += text;
      if (at == part.size()) spelled += options_.end_of_word_suffix;
      text = spelled;
      id = vocab_->find(text);
    }
    if (id >= 0) {
      flush();
      ids.push_back(static_cast<uint32_t>(id));
      continue;
    }
    const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    if (options_.byte_fallback &&
        std::all_of(text.begin(), text.end(), [&](char byte) { return byte_id(byte) >= 0; })) {
      // A waiting unknown is written later, as in the reference library.
      for (const char byte : text) ids.push_back(static_cast<uint32_t>(byte_id(byte)));
      continue;
    }
    if (!options_.unk_token) continue;  // the reference library drops the character
    if (unk_id_ < 0)
      throw Error(ErrorKind::kCorrupt,
                  cat("'", text, "' is not in the vocabulary, and neither is unk_token '", *options_.unk_token, "'"));
    if (!options_.fuse_unk) flush();
    unknown = true;
  }
  flush();
}

void Bpe::merge_short(Scratch& scratch) const {
  auto& ids = scratch.ids;
  auto& ranks = scratch.ranks;
  if (ids.size() < 2) return;
  const auto rank_at = [&](size_t i) {
    const Pair* pair = find_pair(ids[i], ids[i + 1]);
    return pair ? pair->rank : kNone;
  };
  ranks.resize(ids.size() - 1);
  for (size_t i = 0; i < ranks.size(); ++i) ranks[i] = rank_at(i);
  while (!ranks.empty()) {
    const auto lowest = std::min_element(ranks.begin(), ranks.end());
    if (*lowest == kNone) return;
    const auto i = static_cast<size_t>(lowest - ranks.begin());
    ids[i] = find_pair(ids[i], ids[i + 1])->merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    ranks.erase(lowest);
    if (i > 0) ranks[i - 1] = rank_at(i - 1);
    if (i < ranks.size()) ranks[i] = rank_at(i);
  }
}

void Bpe::merge_long(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto count = static_cast<uint32_t>(scratch.ids.size());
  symbols.resize(count);
  for (uint32_t i = 0; i < count; ++i)
    symbols[i] = {scratch.ids[i], i == 0 ? kNone : i - 1, i + 1 == count ? kNone : i + 1};
  heap.clear();
  for (uint32_t i = 0; i + 1 < count; ++i)
    if (const Pair* pair = find_pair(symbols[i].id, symbols[i + 1].id)) heap.push_back(pair_key(pair->rank, i));
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto push = [&](uint32_t left) {
    if (const Pair* pair = find_pair(symbols[left].id, symbols[symbols[left].next].id)) {
      heap.push_back(pair_key(pair->rank, left));
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    const auto left = static_cast<uint32_t>(top);
    const uint32_t right = symbols[left].next;
    if (symbols[left].id == kNone || right == kNone) continue;
    const Pair* pair = find_pair(symbols[left].id, symbols[right].id);
    if (!pair || pair->rank != static_cast<uint32_t>(top >> 32)) continue;  // one of the two has changed since
    symbols[left].id = pair->merged;
    symbols[left].next = symbols[right].next;
    symbols[right].id = kNone;
    if (symbols[left].next != kNone) {
      symbols[symbols[left].next].prev = left;
      push(left);
    }
    if (symbols[left].prev != kNone) push(symbols[left].prev);
  }
  scratch.ids.clear();
  for (uint32_t i = 0; i != kNone && count > 0; i = symbols[i].next) scratch.ids.push_back(symbols[i].id);
}

void Bpe::emit(uint32_t id, std::vector<TokenId>& out) const {
  if (id < vocab_->size()) return out.push_back(static_cast<TokenId>(id));
  emit_unknown(loose_chars_[id - vocab_->size()], out);
}

void Bpe::emit_unknown(std::string_view bytes, std::vector<TokenId>& out) const {
  const bool spell = std::all_of(bytes.begin(), bytes.end(),
                                 [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)] >= 0; });
  if (spell)
    for (const char byte : bytes) out.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
  else if (unk_id_ >= 0)
    out.push_back(unk_id_);
}

}  // namespace nibble
