#include "model/load_tokenizer.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include "core/files.h"
#include "model/tokenizer_cases_test.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
const fs::path kData = fs::path(NIBBLE_TEST_DATA) / "tokenizers";

class LoadTokenizer : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  const fs::path folder_ = fs::path(testing::TempDir()) / cat("load_tokenizer_", ::getpid());
};

TEST_F(LoadTokenizer, SentencePieceAgreesWithItsPythonPackage) {
  fs::copy_file(kData / "spm.model", folder_ / "tokenizer.model");
  const auto tokenizer = load_tokenizer(folder_);
  EXPECT_EQ(tokenizer->kind(), "SentencePiece");
  EXPECT_EQ(tokenizer->vocab_size(), 600u);
  for (const Json& c : read_json_file(kData / "spm.cases.json")) {
    const auto ids = c.at("ids").get<std::vector<TokenId>>();
    EXPECT_EQ(tokenizer->encode(c.at("text").get<std::string>(), false), ids);
    EXPECT_EQ(tokenizer->encode(c.at("text").get<std::string>(), true), c.at("special").get<std::vector<TokenId>>());
    EXPECT_EQ(tokenizer->decode(ids, false), c.at("decoded").get<std::string>());
  }
  EXPECT_EQ(tokenizer->encode("<s>a</s>", false).front(), 1);
  EXPECT_EQ(tokenizer->encode("<s>a</s>", false).back(), 2);
  EXPECT_TRUE(tokenizer->is_special(1));
  EXPECT_FALSE(tokenizer->is_special(tokenizer->find("<|mark|>").value()));
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{1, 2}, false), "<s></s>");
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{1, 2}, true), "");
  EXPECT_THROW(tokenizer->decode(std::vector<TokenId>{600}, true), Error);
  EXPECT_THROW(tokenizer->encode("\x80", true), Error);
}

TEST_F(LoadTokenizer, TheConfigSaysWhetherBosIsAdded) {
  fs::copy_file(kData / "spm.model", folder_ / "tokenizer.model");
  write_text_file(folder_ / "tokenizer_config.json", R"({"add_bos_token": false, "add_eos_token": true})");
  const auto ids = load_tokenizer(folder_)->encode("the", true);
  EXPECT_NE(ids.front(), 1);
  EXPECT_EQ(ids.back(), 2);
  write_text_file(folder_ / "tokenizer_config.json", R"({"add_bos_token": 1})");
  EXPECT_THROW(load_tokenizer(folder_), Error);
}

TEST_F(LoadTokenizer, PrefersTokenizerJson) {
  fs::copy_file(kData / "spm.model", folder_ / "tokenizer.model");
  fs::copy_file(kData / "byte-level.json", folder_ / "tokenizer.json");
  EXPECT_EQ(load_tokenizer(folder_)->kind(), "byte-level BPE");
}

TEST_F(LoadTokenizer, SaysWhatIsMissingOrWrong) {
  const auto error_of = [](const fs::path& path) -> std::string {
    try {
      load_tokenizer(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(error_of(folder_), testing::HasSubstr("no tokenizer.json"));
  EXPECT_THAT(error_of(folder_ / "absent"), testing::HasSubstr("no such file"));
  write_text_file(folder_ / "tokenizer.json", "{\"model\": {\"type\": \"WordLevel\", \"vocab\": {}}}");
  EXPECT_THAT(error_of(folder_),
              testing::AllOf(testing::HasSubstr("tokenizer.json: "), testing::HasSubstr("WordLevel")));
  write_text_file(folder_ / "other.txt", "x");
  EXPECT_THAT(error_of(folder_ / "other.txt"), testing::HasSubstr("other.txt"));
}

TEST_F(LoadTokenizer, TruncatedSentencePieceModelsAreRefusedOrRead) {
  const std::string whole = read_text_file(kData / "spm.model");
  size_t refused = 0;
  for (size_t size = 0; size < whole.size(); size += 11) {
    const std::vector<char> prefix(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    try {
      make_tokenizer_from_sentencepiece({prefix.data(), prefix.size()})->encode("the quick", true);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, whole.size() / 22);
}

}  // namespace
}  // namespace nibble
