#include "model/token_pattern.h"

#include <gmock/gmock.h>

namespace nibble {
namespace {

using testing::ElementsAre;

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  std::vector<std::string> out;
  TokenPattern::from_regex(pattern).for_each(
      text, [&](size_t begin, size_t end) { out.emplace_back(text.substr(begin, end - begin)); });
  return out;
}

// What Oniguruma finds, as the tokenizers library showed.
TEST(TokenPattern, MatchesAsOnigurumaDoes) {
  EXPECT_THAT(matches(R"(\p{N}{1,3}+)", "12345 6"),
              ElementsAre("12345", "6"));  // a repeated repeat, not a possessive one
  EXPECT_THAT(matches(R"(a++b)", "aab"), ElementsAre("aab"));
  EXPECT_THAT(matches(R"(^.)", "ab\ncd"), ElementsAre("a", "c"));
  EXPECT_THAT(matches(R"(.$)", "ab\ncd\n"), ElementsAre("b", "d"));
  EXPECT_THAT(matches(R"((?m:a.))", "a\nab"), ElementsAre("a\n", "ab"));
  EXPECT_THAT(matches(R"(a{,2}b)", "aaab b"), ElementsAre("aab", "b"));
  EXPECT_THAT(matches(R"(x{a})", "x{a}"), ElementsAre("x{a}"));
  EXPECT_THAT(matches(R"([]a]+)", "b]a"), ElementsAre("]a"));
  EXPECT_THAT(matches(R"([[:punct:]]+)", "a,.b"), ElementsAre(",."));
  EXPECT_THAT(matches(R"(\v)", "a\x0b\n"), ElementsAre("\x0b"));
}

TEST(TokenPattern, SpaceAndWordFollowUnicode) {
  // U+180E is no white space since Unicode 6.3; U+0085 and U+2028 are.
  EXPECT_THAT(matches(R"(\s+)",
                      "a\xe1\xa0\x8e"
                      "b\xc2\x85\xe2\x80\xa8"
                      "c"),
              ElementsAre("\xc2\x85\xe2\x80\xa8"));
  EXPECT_THAT(matches(R"([^\s]+)",
                      "a\xe1\xa0\x8e"
                      "b c"),
              ElementsAre("a\xe1\xa0\x8e"
                          "b",
                          "c"));
  EXPECT_THAT(matches(R"([^\S\n]+)", "a \t\n b"), ElementsAre(" \t", " "));
  EXPECT_THAT(matches(R"([\s\S]{2})", "a\nbc"), ElementsAre("a\n", "bc"));
  EXPECT_THAT(matches(R"([^\W\d_]+)", "ab1_c"), ElementsAre("ab", "c"));
  EXPECT_THAT(matches(R"(\w+)", "e\xcc\x81_1 -"), ElementsAre("e\xcc\x81_1"));  // marks are part of words
}

TEST(TokenPattern, EmptyMatchesMoveOn) {
  EXPECT_THAT(matches("x*", "axxb"), ElementsAre("", "xx", ""));
  EXPECT_THAT(matches("(?=[A-Z])", "aBC"), ElementsAre("", ""));
}

TEST(TokenPattern, SaysWhatItDoesNotKnow) {
  for (const char* pattern : {R"(\h)", "[a&&b]", "[a[b]]", R"(\)", "[a", "(?x)a", R"([\X])", "(a", "a{2,1}"}) {
    try {
      TokenPattern::from_regex(pattern);
      ADD_FAILURE() << pattern;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported) << pattern;
      EXPECT_THAT(error.what(), testing::HasSubstr(pattern));
    }
  }
}

}  // namespace
}  // namespace nibble
