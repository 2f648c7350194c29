#include "core/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "core/test_errors.h"
#include "core/threads.h"

namespace nibble {
namespace {

using testing::HasSubstr;

std::vector<std::string> all_matches(const Regex& regex, std::string_view text) {
  std::vector<std::string> out;
  for (size_t at = 0; at <= text.size();) {
    const auto match = regex.find(text, at);
    if (!match) break;
    out.emplace_back(text.substr(match->begin, match->end - match->begin));
    at = match->end > at ? match->end : at + 1;
  }
  return out;
}

TEST(Regex, FindsUnicodeClasses) {
  const Regex words(R"(\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s)");
  EXPECT_EQ(all_matches(words, "d\xc3\xa9j\xc3\xa0 12345  x"),
            (std::vector<std::string>{"d\xc3\xa9j\xc3\xa0", " ", "123", "45", " ", " ", "x"}));
  const auto match = words.find("--ab", 0);
  ASSERT_TRUE(match);
  EXPECT_EQ(match->begin, 2u);
  EXPECT_EQ(match->end, 4u);
  EXPECT_FALSE(words.find("---"));
  EXPECT_FALSE(words.find("ab", 2));
  EXPECT_FALSE(words.find(std::string_view{}));
}

TEST(Regex, LookBehindSeesTheTextBeforeStart) {
  EXPECT_TRUE(Regex("(?<=a)b").find("ab", 1));
  EXPECT_FALSE(Regex("(?<=a)b").find("cb", 1));
}

TEST(Regex, PrefixMatchIsAnchoredAtTheStartOnly) {
  const Regex regex(R"(model\.layers\.\d+\.mlp)");
  EXPECT_TRUE(regex.matches_prefix("model.layers.12.mlp.down_proj"));
  EXPECT_FALSE(regex.matches_prefix("x.model.layers.12.mlp"));
  EXPECT_TRUE(Regex("a|b").matches_prefix("bc"));  // the anchor holds for every alternative
  EXPECT_FALSE(Regex("a|b").matches_prefix("cb"));
  EXPECT_TRUE(Regex("").matches_prefix(""));
  EXPECT_FALSE(Regex(".").matches_prefix("\xff"));
}

TEST(Regex, FaultsAreUsageErrorsWithAPosition) {
  EXPECT_THAT(error_text([] { Regex("a(b"); }), HasSubstr("'a(b' is wrong at character 3"));
  EXPECT_EQ(error_kind([] { Regex("["); }), ErrorKind::kUsage);
  EXPECT_EQ(error_kind([] { Regex("\xff"); }), ErrorKind::kUsage);
}

// Long runs of one class need more stack than JIT's default; hopeless backtracking is an Error and not a hang.
TEST(Regex, LongAndHostileTexts) {
  const std::string run(1'000'000, 'a');
  const auto match = Regex(R"((?:\p{L}|\p{N})+)").find(run);
  ASSERT_TRUE(match);
  EXPECT_EQ(match->end, run.size());
  const Regex hopeless("(a+)+(a+)+b");
  const std::string text(64, 'a');
  EXPECT_EQ(error_kind([&] { (void)hopeless.find(text + "c" + std::string(1, 'b')); }), ErrorKind::kUnsupported);
}

TEST(Regex, OnePatternInManyThreads) {
  set_thread_count(4);
  const Regex regex(R"(\d+)");
  std::vector<size_t> lengths(1000);
  parallel_for(lengths.size(), 1, [&](size_t begin, size_t) {
    const auto match = regex.find(cat("x", std::string(begin % 50 + 1, '7'), "y"));
    lengths[begin] = match ? match->end - match->begin : 0;
  });
  for (size_t i = 0; i < lengths.size(); ++i) ASSERT_EQ(lengths[i], i % 50 + 1);
  set_thread_count(0);
}

TEST(Regex, Moves) {
  Regex a("x"), b("y");
  a = std::move(b);
  EXPECT_TRUE(a.find("y"));
  const Regex c(std::move(a));
  EXPECT_TRUE(c.find("y"));
}

}  // namespace
}  // namespace nibble
