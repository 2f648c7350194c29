#include "pipeline/chat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class FakeSource final : public Source {
 public:
  FakeSource(Json config, std::map<std::string, std::string, std::less<>> files) : files_(std::move(files)) {
    path_ = "somewhere/model";
    config_ = std::move(config);
  }
  std::vector<std::string> side_files() const override {
    std::vector<std::string> names;
    for (const auto& [name, text] : files_) names.push_back(name);
    return names;
  }
  std::string side_file(std::string_view name) const override { return files_.find(name)->second; }
  std::string kind() const override { return "fake"; }

 private:
  std::map<std::string, std::string, std::less<>> files_;
};

// A token is a byte.
class Bytes final : public Tokenizer {
 public:
  std::vector<TokenId> encode(std::string_view text, bool add_special) const override {
    std::vector<TokenId> ids(add_special ? 1 : 0, 0);
    for (char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(std::span<const TokenId> ids, bool) const override {
    std::string text;
    for (TokenId id : ids) text.push_back(static_cast<char>(id));
    return text;
  }
  size_t vocab_size() const override { return 256; }
  std::optional<TokenId> find(std::string_view token) const override {
    return token.size() == 1 ? std::optional<TokenId>(token[0]) : std::nullopt;
  }
  std::string token(TokenId id) const override { return std::string(1, static_cast<char>(id)); }
  bool is_special(TokenId) const override { return false; }
  std::string kind() const override { return "bytes"; }
};

std::string render(const FakeSource& source) {
  const Bytes tokenizer;
  return tokenizer.decode(ChatFormat(source, tokenizer).encode({{"user", "hi"}}), false);
}

std::string failure(const FakeSource& source) {
  try {
    return "rendered: " + render(source);
  } catch (const Error& error) {
    return error.what();
  }
}

constexpr const char* kNames = R"("bos_token": {"content": "B", "lstrip": false}, "eos_token": "E", "pad_token": null)";

TEST(ChatFormat, TakesTheTemplateOfTheTokenizersConfig) {
  EXPECT_EQ(
      render(
          {Json::object(),
           {{"tokenizer_config.json",
             cat("{", kNames,
                 R"(, "chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}"})")}}}),
      "BhiE");
}

TEST(ChatFormat, TakesTheOneNamedDefault) {
  const std::string list = R"([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}])";
  EXPECT_EQ(render({Json::object(), {{"tokenizer_config.json", R"({"chat_template": )" + list + "}"}}}), "plain");
  EXPECT_THAT(failure({Json::object(), {{"tokenizer_config.json", R"({"chat_template": []})"}}}),
              HasSubstr("no chat template"));
}

TEST(ChatFormat, PrefersTheTemplateFile) {
  EXPECT_EQ(render({Json::object(),
                    {{"chat_template.jinja", "file {{ add_generation_prompt }}"},
                     {"tokenizer_config.json", R"({"chat_template": "config"})"}}}),
            "file True");
}

TEST(ChatFormat, FindsTokensByNumberWhenTheyHaveNoName) {
  EXPECT_EQ(render({{{"bos_token_id", 66}, {"eos_token_id", 9999}},
                    {{"chat_template.jinja", "{{ bos_token }}{{ eos_token is defined }}"}}}),
            "BFalse");
}

TEST(ChatFormat, SaysWhatIsMissingOrWrong) {
  EXPECT_THAT(failure({Json::object(), {}}), HasSubstr("somewhere/model: the model has no chat template"));
  EXPECT_THAT(failure({Json::object(), {{"chat_template.jinja", "{% nope %}"}}}),
              HasSubstr("somewhere/model: chat template: line 1 column 4"));
  EXPECT_THAT(failure({Json::object(), {{"tokenizer_config.json", "[1]"}}}),
              HasSubstr("tokenizer_config.json: should be a JSON object"));
  EXPECT_THAT(failure({Json::object(), {{"tokenizer_config.json", "{"}}}),
              HasSubstr("tokenizer_config.json: not valid JSON"));
}

TEST(EosTokens, AreThoseOfAllFiles) {
  const Bytes tokenizer;
  const FakeSource source({{"eos_token_id", 7}}, {{"generation_config.json", R"({"eos_token_id": [9, 7]})"},
                                                  {"tokenizer_config.json", R"({"eos_token": "E"})"}});
  EXPECT_THAT(eos_tokens(source, &tokenizer), ElementsAre(7, 9, 'E'));
  EXPECT_THAT(eos_tokens(source, nullptr), ElementsAre(7, 9));
  EXPECT_THAT(eos_tokens(FakeSource(Json::object(), {}), &tokenizer), testing::IsEmpty());
  EXPECT_THROW(eos_tokens(FakeSource({{"eos_token_id", "x"}}, {}), nullptr), Error);
  EXPECT_THROW(eos_tokens(FakeSource({{"eos_token_id", 1e300}}, {}), nullptr), Error);
  EXPECT_THROW(eos_tokens(FakeSource({{"eos_token_id", uint64_t{1} << 40}}, {}), nullptr), Error);
}

}  // namespace
}  // namespace nibble
