#include "model/bpe.h"
#include "core/test_sanitized.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "core/random.h"
#include "model/token_text.h"

namespace nibble {
namespace {

struct Vocab {
  std::vector<std::string> tokens;
  std::vector<std::pair<std::string, std::string>> merges;

  TokenTable table() const {
    TokenTable table(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) table.add(tokens[i], static_cast<int64_t>(i));
    return table;
  }
  std::vector<Bpe::Merge> views() const { return {merges.begin(), merges.end()}; }
};

// Characters a..h and random merges of what is there already.
Vocab random_vocab(uint64_t seed, size_t merges) {
  Random random(seed);
  Vocab vocab;
  for (char c = 'a'; c <= 'h'; ++c) vocab.tokens.emplace_back(1, c);
  while (vocab.merges.size() < merges) {
    const auto pick = [&] { return vocab.tokens[random.next() % vocab.tokens.size()]; };
    const std::string left = pick(), right = pick();
    if (left.size() + right.size() > 12 ||
        std::find(vocab.merges.begin(), vocab.merges.end(), std::pair(left, right)) != vocab.merges.end())
      continue;
    vocab.merges.emplace_back(left, right);
    if (std::find(vocab.tokens.begin(), vocab.tokens.end(), left + right) == vocab.tokens.end())
      vocab.tokens.push_back(left + right);
  }
  return vocab;
}

std::string random_text(uint64_t seed, size_t size) {
  Random random(seed);
  std::string text;
  while (text.size() < size) text += static_cast<char>('a' + random.next() % 8);
  return text;
}

// The definition: merge the pair of lowest rank, the leftmost first, one at a time.
template <class Rank>
std::vector<std::string> merge_naively(std::vector<std::string> parts, const Rank& rank) {
  for (;;) {
    double best = INFINITY;
    size_t at = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i)
      if (const double r = rank(parts[i], parts[i + 1]); r < best) best = r, at = i;
    if (best == INFINITY) return parts;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

std::vector<std::string> characters(const std::string& text) {
  std::vector<std::string> out;
  for (const char c : text) out.emplace_back(1, c);
  return out;
}

std::vector<std::string> encode(const Bpe& bpe, const TokenTable& table, const std::string& text) {
  Bpe::Scratch scratch;
  std::vector<TokenId> ids;
  bpe.encode(text, scratch, ids);
  std::vector<TokenId> again;
  bpe.encode(text, scratch, again);  // now from the cache
  EXPECT_EQ(ids, again);
  std::vector<std::string> out;
  for (const TokenId id : ids) out.emplace_back(table.token(id));
  return out;
}

constexpr uint64_t kSeedStep = kSanitized ? 4 : 1;  // small and large vocabularies all the same

TEST(Bpe, MergesAsTheDefinitionSays) {
  for (uint64_t seed = 1; seed <= 40; seed += kSeedStep) {
    const Vocab vocab = random_vocab(seed, 5 + seed * 2);
    const TokenTable table = vocab.table();
    const Bpe bpe = Bpe::from_merges(table, vocab.views(), {});
    std::map<std::pair<std::string, std::string>, double> ranks;
    for (size_t i = 0; i < vocab.merges.size(); ++i) ranks[vocab.merges[i]] = static_cast<double>(i);
    const auto rank = [&](const std::string& a, const std::string& b) {
      const auto it = ranks.find({a, b});
      return it == ranks.end() ? INFINITY : it->second;
    };
    // Short words are merged by scanning, long ones by a heap, very long ones are cut first.
    for (const size_t size : {1u, 2u, 7u, 20u, 30u, 60u, 70u, 300u, 1000u}) {
      const std::string text = random_text(seed * 100 + size, size);
      EXPECT_EQ(encode(bpe, table, text), merge_naively(characters(text), rank)) << "seed " << seed << " size " << size;
    }
  }
}

TEST(Bpe, MergesByScoreAsTheDefinitionSays) {
  for (uint64_t seed = 1; seed <= 40; seed += kSeedStep) {
    const Vocab vocab = random_vocab(seed, 5 + seed * 2);
    const TokenTable table = vocab.table();
    Random random(seed);
    std::vector<float> scores;
    for (size_t i = 0; i < vocab.tokens.size(); ++i)
      scores.push_back(-static_cast<float>(random.next() % 12));  // many are equal
    const Bpe bpe = Bpe::from_scores(table, scores, {});
    const auto rank = [&](const std::string& a, const std::string& b) {
      const TokenId id = table.find(a + b);
      return id < 0 ? INFINITY : -static_cast<double>(scores[static_cast<size_t>(id)]);
    };
    for (const size_t size : {1u, 2u, 7u, 20u, 30u, 60u, 70u, 300u, 1000u}) {
      const std::string text = random_text(seed * 100 + size, size);
      EXPECT_EQ(encode(bpe, table, text), merge_naively(characters(text), rank)) << "seed " << seed << " size " << size;
    }
  }
}

TEST(Bpe, ScoresReachThroughCharactersThatAreNoTokens) {
  Vocab vocab;
  vocab.tokens = {"<unk>", "a", "ab", "abc", "<0x62>", "<0x63>"};
  const TokenTable table = vocab.table();
  BpeOptions options;
  options.unk_token = "<unk>";
  options.byte_fallback = true;
  const Bpe bpe = Bpe::from_scores(table, {NAN, 0, -1, -2, NAN, NAN}, options);
  EXPECT_EQ(encode(bpe, table, "abcab"), (std::vector<std::string>{"abc", "ab"}));
  EXPECT_EQ(encode(bpe, table, "bcd"), (std::vector<std::string>{"<0x62>", "<0x63>", "<unk>"}));
}

TEST(Bpe, OfAPairListedTwiceTheLastRankCounts) {
  Vocab vocab;
  vocab.tokens = {"a", "b", "c", "ab", "bc"};
  vocab.merges = {{"a", "b"}, {"b", "c"}, {"a", "b"}};
  const TokenTable table = vocab.table();
  EXPECT_EQ(encode(Bpe::from_merges(table, vocab.views(), {}), table, "abc"), (std::vector<std::string>{"a", "bc"}));
}

TEST(Bpe, UnknownCharactersAreFusedOnlyOnRequest) {
  Vocab vocab;
  vocab.tokens = {"<unk>", "a"};
  const TokenTable table = vocab.table();
  BpeOptions options;
  const std::string text = "axxa" + std::string(100, 'x') + "a";
  EXPECT_EQ(encode(Bpe::from_merges(table, {}, options), table, text).size(), 3u);  // dropped
  options.unk_token = "<unk>";
  EXPECT_EQ(encode(Bpe::from_merges(table, {}, options), table, text).size(), 105u);
  options.fuse_unk = true;
  EXPECT_EQ(encode(Bpe::from_merges(table, {}, options), table, text),
            (std::vector<std::string>{"a", "<unk>", "a", "<unk>", "a"}));
  options.unk_token = "<absent>";
  EXPECT_THROW(encode(Bpe::from_merges(table, {}, options), table, text), Error);
}

TEST(Bpe, WholeWordsWinWhenMergesAreIgnored) {
  Vocab vocab;
  vocab.tokens = {"a", "b", "aba"};
  const TokenTable table = vocab.table();
  BpeOptions options;
  EXPECT_EQ(encode(Bpe::from_merges(table, {}, options), table, "aba").size(), 3u);
  options.ignore_merges = true;
  EXPECT_EQ(encode(Bpe::from_merges(table, {}, options), table, "aba"), (std::vector<std::string>{"aba"}));
}

TEST(Bpe, TheCacheForgetsInsteadOfGrowing) {
  const Vocab vocab = random_vocab(3, 30);
  const TokenTable table = vocab.table();
  const Bpe bpe = Bpe::from_merges(table, vocab.views(), {});
  Bpe::Scratch used, fresh;
  for (uint64_t i = 0; i < 200'000; ++i) {
    const std::string word = random_text(i, 9);
    std::vector<TokenId> ids;
    bpe.encode(word, used, ids);
    if (i % 1000 != 0) continue;
    std::vector<TokenId> want;
    fresh = {};
    bpe.encode(word, fresh, want);
    ASSERT_EQ(ids, want) << word;
  }
}

}  // namespace
}  // namespace nibble
