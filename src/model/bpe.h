#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/token_table.h"
#include "model/word_cache.h"

namespace nibble {

// How characters become symbols before the first merge. Names as in tokenizer.json.
struct BpeOptions {
  std::optional<std::string> unk_token;
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;  // a word that is a token as a whole is that token
  std::string continuing_subword_prefix;
  std::string end_of_word_suffix;
};

// Byte pair encoding (Sennrich et al. 2016): the adjacent pair of lowest rank is merged, the leftmost first, until no
// pair has a rank. O(n log n) for any text. Immutable, thread-safe; what changes lives in a Scratch.
class Bpe {
 public:
  // The working memory of one thread.
  struct Scratch {
    struct Symbol {
      uint32_t id;
      uint32_t prev;  // index; the first has none: UINT32_MAX
      uint32_t next;  // index; the last has none: UINT32_MAX
    };
    std::vector<uint32_t> ids;
    std::vector<uint32_t> ranks;
    std::vector<Symbol> symbols;
    std::vector<uint64_t> heap;  // rank << 32 | index of the left symbol
    std::vector<TokenId> word;
    WordCache cache;
  };
  using Merge = std::pair<std::string_view, std::string_view>;

  // Ranks are positions in `merges`. Throws Error(kCorrupt) naming a merge whose parts or result are not in `vocab`.
  static Bpe from_merges(const TokenTable& vocab, const std::vector<Merge>& merges, BpeOptions options);
  // SentencePiece's order (Kudo & Richardson 2018): two symbols merge if together they are a token, the highest score
  // first. `scores` is by id, NaN for tokens that must not be made by merging. `vocab` must outlive the result in both
  // cases.
  static Bpe from_scores(const TokenTable& vocab, const std::vector<float>& scores, BpeOptions options);

  Bpe(Bpe&&) = default;
  Bpe& operator=(Bpe&&) = default;

  // Appends the ids of one pre-tokenized word (valid UTF-8, < 4 GiB).
  void encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const;

  const BpeOptions& options() const { return options_; }

 private:
  struct Pair {
    uint64_t key = kNoPair;  // left id << 32 | right id
    uint32_t rank = 0;
    uint32_t merged = 0;
  };
  static constexpr uint64_t kNoPair = UINT64_MAX;
  static constexpr size_t kDirectChars = 0x300;  // Latin and the byte-level alphabet: looked up without hashing
  static constexpr size_t kSeamBits = 20;

  Bpe(const TokenTable& vocab, BpeOptions options);
  void reserve_pairs(size_t count);
  void set_pair(uint32_t left, uint32_t right, uint32_t rank, uint32_t merged);
  const Pair* find_pair(uint32_t left, uint32_t right) const;
  void add_seams(std::string_view token);
  bool has_seam(char32_t left, char32_t right) const;
  // Id of a character that is a symbol by itself, or -1.
  int64_t find_symbol(char32_t c, std::string_view bytes) const;
  void encode_part(std::string_view part, Scratch& scratch, std::vector<TokenId>& out) const;
  void make_symbols(std::string_view part, std::vector<uint32_t>& ids) const;
  void merge_short(Scratch& scratch) const;
  void merge_long(Scratch& scratch) const;
  void emit(uint32_t id, std::vector<TokenId>& out) const;
  void emit_unknown(std::string_view bytes, std::vector<TokenId>& out) const;

  const TokenTable* vocab_;
  BpeOptions options_;
  std::array<int64_t, kDirectChars> direct_{};
  std::array<TokenId, 256> byte_ids_{};  // of "<0x00>" ... "<0xFF>", or -1
  TokenId unk_id_ = -1;
  std::vector<Pair> pairs_;  // open addressing, a power of two
  // Which characters stand next to each other inside some merged token (a Bloom filter with one hash). Where two
  // neighbours never do, no merge crosses: long words are cut there, which changes nothing but the time.
  std::vector<uint64_t> seams_;
  bool can_cut_ = true;
  // Characters that are no tokens but can become part of one (from_scores): their symbols are vocab.size() + index.
  std::vector<std::string> loose_chars_;
  std::vector<std::pair<std::string_view, uint32_t>> loose_ids_;  // sorted
};

}  // namespace nibble
