#include "core/text.h"

#include <gtest/gtest.h>

#include "core/test_errors.h"

namespace nibble {
namespace {

TEST(Text, BytesAreFormattedInDecimalUnits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.0 kB");
  EXPECT_EQ(format_bytes(268'960'000), "269.0 MB");
  EXPECT_EQ(format_bytes(999'949), "999.9 kB");
  EXPECT_EQ(format_bytes(999'960), "1.0 MB");
  EXPECT_EQ(format_bytes(SIZE_MAX), "18.4 EB");
}

TEST(Text, Fixed) {
  EXPECT_EQ(format_fixed(35.876, 2), "35.88");
  EXPECT_EQ(format_fixed(-0.5, 0), "-0");
  EXPECT_LE(format_fixed(1e300, 3).size(), 64u);  // cut rather than overrun
}

TEST(Text, ParsesSizes) {
  EXPECT_EQ(parse_bytes("1048576"), 1048576u);
  EXPECT_EQ(parse_bytes("512M"), 512'000'000u);
  EXPECT_EQ(parse_bytes("2.5GB"), 2'500'000'000u);
  EXPECT_EQ(parse_bytes("2Gi"), size_t{2} << 30);
  EXPECT_EQ(parse_bytes("3KiB"), 3072u);
  EXPECT_EQ(parse_bytes("1t"), 1'000'000'000'000u);
  EXPECT_EQ(parse_bytes("7B"), 7u);
  for (const char* bad : {"", "M", "-1", "-1G", "1X", "1 G", "1GG", "1i", "nan", "inf", "1e30", "99999999T", "1Gx"})
    EXPECT_EQ(error_kind([&] { parse_bytes(bad); }), ErrorKind::kUsage) << bad;
}

TEST(Text, SplitAndJoinAreInverses) {
  EXPECT_EQ(split("", ','), std::vector<std::string>{""});
  EXPECT_EQ(split("a,,b,", ','), (std::vector<std::string>{"a", "", "b", ""}));
  EXPECT_EQ(join({}, ", "), "");
  EXPECT_EQ(join({"a"}, ", "), "a");
  EXPECT_EQ(join(split("x-y-z", '-'), "-"), "x-y-z");
}

TEST(Text, LowerIsAsciiOnly) { EXPECT_EQ(lower("W4A16_@[`{\xc3\x84"), "w4a16_@[`{\xc3\x84"); }

TEST(Text, FindsTheFirstInvalidByteOfUtf8) {
  constexpr size_t npos = std::string_view::npos;
  EXPECT_EQ(find_invalid_utf8(""), npos);
  EXPECT_EQ(find_invalid_utf8("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf\xed\x9f\xbf"), npos);
  for (const char* bad :
       {"\x80", "\xc1\xbf", "\xc0\x80", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80", "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xc3(", "\xe2(\xac", "\xe2\x82(", "\xff"}) {
    EXPECT_EQ(find_invalid_utf8(bad), 0u) << bad;
    EXPECT_EQ(find_invalid_utf8(std::string("ok\xc3\xa9") + bad), 4u) << bad;
  }
}

// Against the definition: decode, then check range, length and surrogates, for every sequence of two and three bytes.
TEST(Text, Utf8AgreesWithTheDefinition) {
  const auto valid3 = [](unsigned a, unsigned b, unsigned c) {
    if ((a & 0xf0) != 0xe0 || (b & 0xc0) != 0x80 || (c & 0xc0) != 0x80) return false;
    const unsigned code = (a & 15) << 12 | (b & 63) << 6 | (c & 63);
    return code >= 0x800 && (code < 0xd800 || code > 0xdfff);
  };
  for (unsigned a = 0xe0; a < 0xf0; ++a)
    for (unsigned b = 0; b < 256; ++b)
      for (unsigned c = 0; c < 256; c += 5) {
        const char text[] = {static_cast<char>(a), static_cast<char>(b), static_cast<char>(c)};
        ASSERT_EQ(find_invalid_utf8({text, 3}) == std::string_view::npos, valid3(a, b, c)) << a << " " << b << " " << c;
      }
}

TEST(Text, QuoteKeepsMessagesOnOneLine) {
  EXPECT_EQ(quote("model.layers.0"), "'model.layers.0'");
  EXPECT_EQ(quote("a\nb\x7f\xff\xc3\xa9\x80"), "'a\\x0ab\\x7f\\xff\xc3\xa9\\x80'");
  EXPECT_EQ(quote(std::string(200, 'x')), "'" + std::string(100, 'x') + "...'");
  // A character that the cut splits is escaped.
  EXPECT_EQ(quote(std::string(99, 'x') + "\xc3\xa9"), "'" + std::string(99, 'x') + "\\xc3...'");
}

TEST(Text, NewlinesAreReadAsPythonDoes) {
  EXPECT_EQ(normalize_newlines("a\r\nb\rc\nd\r\r\n"), "a\nb\nc\nd\n\n");
  EXPECT_EQ(normalize_newlines(""), "");
  EXPECT_EQ(normalize_newlines("\r"), "\n");
}

}  // namespace
}  // namespace nibble
