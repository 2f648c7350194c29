#include <gtest/gtest.h>

#include <filesystem>

#include "core/files.h"
#include "model/load_tokenizer.h"

namespace nibble {
namespace {

const std::filesystem::path kData = std::filesystem::path(NIBBLE_TEST_DATA) / "tokenizers";

TEST(StreamDecoder, HoldsBackUnfinishedCharacters) {
  const auto tokenizer = load_tokenizer(kData / "byte-level.json");
  const auto ids = tokenizer->encode("\xf0\x9f\x9a\x80!", false);  // four bytes, four tokens
  ASSERT_EQ(ids.size(), 5u);
  StreamDecoder decoder(*tokenizer, false);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(decoder.add(ids[i]), "");
  EXPECT_EQ(decoder.add(ids[3]), "\xf0\x9f\x9a\x80");
  EXPECT_EQ(decoder.add(ids[4]), "!");
  EXPECT_EQ(decoder.add(ids[0]), "");
  EXPECT_EQ(decoder.finish(), "\xef\xbf\xbd");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, GarbageIsWrittenInTheEndAndInLinearTime) {
  const auto tokenizer = load_tokenizer(kData / "byte-level.json");
  const TokenId lone = tokenizer->encode("\xf0\x9f\x9a\x80", false)[1];
  StreamDecoder decoder(*tokenizer, false);
  std::string text;
  for (int i = 0; i < 20000; ++i) text += decoder.add(lone);
  text += decoder.finish();
  EXPECT_EQ(text.size(), 3u * 20000u);
}

TEST(StreamDecoder, KeepsSpacesThatOnlyTheFirstTokenLoses) {
  const auto tokenizer = load_tokenizer(kData / "byte-fallback.json");
  const auto ids = tokenizer->encode("the quick brown fox", false);
  StreamDecoder decoder(*tokenizer, false);
  std::string text;
  for (const TokenId id : ids) text += decoder.add(id);
  EXPECT_EQ(text + decoder.finish(), "the quick brown fox");
}

TEST(StreamDecoder, LeavesSpecialTokensOut) {
  const auto tokenizer = load_tokenizer(kData / "byte-level.json");
  StreamDecoder decoder(*tokenizer, true);
  std::string text;
  for (const TokenId id : tokenizer->encode("a</s>b", true)) text += decoder.add(id);
  EXPECT_EQ(text + decoder.finish(), "ab");
}

}  // namespace
}  // namespace nibble
