#include "core/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/files.h"
#include "core/test_errors.h"
#include "core/test_folder.h"

namespace nibble {
namespace {

using testing::HasSubstr;

TEST(Json, ParseErrorsNameTheSourceAndTheByte) {
  EXPECT_EQ(error_text([] { parse_json("{\"a\": 1, }", "config.json"); }), "config.json: not valid JSON at byte 10");
  EXPECT_THAT(error_text([] { parse_json("", "x"); }), HasSubstr("not valid JSON at byte 1"));
  EXPECT_THAT(error_text([] { parse_json("{} {}", "x"); }), HasSubstr("at byte 4"));
  EXPECT_THAT(error_text([] { parse_json("[1e999]", "x"); }), HasSubstr("out of range"));
  EXPECT_THAT(error_text([] { parse_json("\"\xff\"", "x"); }), HasSubstr("at byte 2"));
  EXPECT_EQ(error_kind([] { parse_json("nul", "x"); }), ErrorKind::kCorrupt);
}

TEST(Json, EveryPrefixOfADocumentIsRefused) {
  const std::string text = R"({"a": [1, -2.5e3, true, null], "b\u00e9\\": {"c": "\ud83d\ude00 [{"}})";
  EXPECT_EQ(parse_json(text, "x").size(), 2u);
  for (size_t length = 0; length < text.size(); ++length)
    EXPECT_EQ(error_kind([&] { parse_json(std::string(text, 0, length), "x"); }), ErrorKind::kCorrupt) << length;
}

TEST(Json, NestingIsLimited) {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse_json(nested(256), "x"));
  EXPECT_THAT(error_text([&] { parse_json(nested(257), "x"); }), HasSubstr("deeper than 256"));
  EXPECT_THAT(error_text([&] { parse_json(std::string(10'000'000, '['), "x"); }), HasSubstr("deeper than 256"));
  // Brackets in strings do not count, escaped quotes do not end a string.
  EXPECT_NO_THROW(parse_json("\"\\\"" + std::string(1000, '[') + "\\\\\"", "x"));
  EXPECT_THROW(parse_json("[\"\\\\\"," + nested(256) + "]", "x"), Error);
}

TEST(Json, TypedAccess) {
  const Json json = parse_json(
      R"({"s": "text", "n": -2.5, "u": 7, "i": -7, "big": 18446744073709551615, "b": true, "z": null})", "x");
  EXPECT_EQ(get_string(json, "s"), "text");
  EXPECT_EQ(get_number(json, "n"), -2.5);
  EXPECT_EQ(get_number(json, "u"), 7.0);
  EXPECT_EQ(get_size(json, "u"), 7u);
  EXPECT_EQ(get_size(json, "big"), SIZE_MAX);
  EXPECT_EQ(find_bool(json, "b"), true);
  EXPECT_EQ(get(json, "u"), 7);
  EXPECT_EQ(find(json, "z"), nullptr);
  EXPECT_EQ(find(json, "absent"), nullptr);
  EXPECT_EQ(find_string(json, "z"), std::nullopt);
  EXPECT_EQ(find_size(json, "absent"), std::nullopt);
  EXPECT_EQ(error_text([&] { get_size(json, "absent"); }), "'absent' is missing");
  EXPECT_EQ(error_text([&] { get(json, "z"); }), "'z' is missing");
  EXPECT_EQ(error_text([&] { get_size(json, "i"); }), "'i' should be a non-negative integer, found number");
  EXPECT_THROW(get_size(json, "n"), Error);
  EXPECT_THROW(get_string(json, "u"), Error);
  EXPECT_THROW(find_number(json, "s"), Error);
  EXPECT_THROW(find_bool(json, "u"), Error);
  EXPECT_EQ(error_text([&] { find(get(json, "u"), "key"); }), "expected a JSON object with 'key', found number");
}

TEST(Json, FilesAreNamedInErrors) {
  const TestFolder folder;
  write_text_file(folder / "a.json", "{\"a\": 1}");
  EXPECT_EQ(get_size(read_json_file(folder / "a.json"), "a"), 1u);
  write_text_file(folder / "empty.json", "");
  EXPECT_THAT(error_text([&] { read_json_file(folder / "empty.json"); }), HasSubstr("empty.json: not valid JSON"));
  EXPECT_EQ(error_kind([&] { read_json_file(folder / "none.json"); }), ErrorKind::kIo);
}

}  // namespace
}  // namespace nibble
