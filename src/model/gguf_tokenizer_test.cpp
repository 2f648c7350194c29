#include "model/gguf_tokenizer.h"

#include <gmock/gmock.h>

#include <cstring>
#include <filesystem>

#include "core/files.h"
#include "model/gguf_pre_tokenizers.h"
#include "model/load_tokenizer.h"
#include "model/token_pattern.h"
#include "model/tokenizer_cases_test.h"

namespace nibble {
namespace {

const std::filesystem::path kData = std::filesystem::path(NIBBLE_TEST_DATA) / "tokenizers";

// The file with `from` replaced by `to`, of the same length.
std::shared_ptr<const Gguf> patched(const std::string& name, std::string_view from, std::string_view to) {
  auto bytes = std::make_shared<std::string>(read_text_file(kData / name));
  const size_t at = bytes->find(from);
  EXPECT_NE(at, std::string::npos);
  EXPECT_EQ(from.size(), to.size());
  bytes->replace(at, from.size(), to);
  return Gguf::parse(std::as_bytes(std::span(*bytes)), bytes);
}

std::string error_of(const Gguf& gguf) {
  try {
    tokenizer_from_gguf(gguf);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(GgufTokenizer, SentencePieceVocabulariesMergeAsSentencePieceDoes) {
  const auto tokenizer = load_tokenizer(kData / "spm.gguf");
  EXPECT_EQ(tokenizer->kind(), "byte-fallback BPE");
  Json cases = Json::array();
  // SentencePiece puts no space after a user-defined piece; GGUF readers do.
  for (const Json& c : read_json_file(kData / "spm.cases.json"))
    if (c.at("text").get<std::string>().find("<|mark|>") == std::string::npos) cases.push_back(c);
  expect_cases(*tokenizer, cases);
  EXPECT_EQ(tokenizer->encode("<s>", false), (std::vector<TokenId>{1}));
  EXPECT_EQ(tokenizer->encode("a<|mark|>", false).back(), tokenizer->find("<|mark|>"));
}

TEST(GgufTokenizer, OtherReadersGetMergesThatSayTheSame) {
  Json json = tokenizer_from_gguf(*Gguf::open(kData / "spm.gguf")).tokenizer;
  const auto by_score = make_tokenizer_from_json(json);
  json["model"].erase("scores");
  const auto by_rank = make_tokenizer_from_json(json);
  for (const Json& c : read_json_file(kData / "spm.cases.json")) {
    const auto text = c.at("text").get<std::string>();
    EXPECT_EQ(by_rank->encode(text, true), by_score->encode(text, true)) << text;
  }
}

TEST(GgufTokenizer, ByteLevelVocabulariesAreCutAsTheirNameSays) {
  const auto files = tokenizer_from_gguf(*Gguf::open(kData / "bpe.gguf"));
  const auto tokenizer = make_tokenizer_from_json(files.tokenizer);
  const auto tokens = [&](std::string_view text) {
    std::vector<std::string> out;
    for (const TokenId id : tokenizer->encode(text, false)) out.push_back(tokenizer->token(id));
    return out;
  };
  // smollm: every digit is a piece of its own, so that the space before it stays alone.
  EXPECT_THAT(tokens(" 12"), testing::ElementsAre("\xc4\xa0", "1", "2"));
  EXPECT_THAT(tokens("<s> the"), testing::ElementsAre("<s>", "\xc4\xa0the"));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("Gr\xc3\xb6\xc3\x9f"
                                                "e 12\n",
                                                false),
                              false),
            "Gr\xc3\xb6\xc3\x9f"
            "e 12\n");
  EXPECT_EQ(files.tokenizer_config.at("bos_token"), "<s>");
  EXPECT_EQ(files.tokenizer_config.at("unk_token"), "<unk>");
  ASSERT_TRUE(files.chat_template.has_value());
  EXPECT_EQ(files.tokenizer_config.at("chat_template"), *files.chat_template);
}

TEST(GgufTokenizer, UnknownKindsAreRefusedByName) {
  EXPECT_THAT(error_of(*patched("bpe.gguf", "smollm", "smelly")), testing::HasSubstr("'smelly'"));
  EXPECT_THAT(error_of(*patched("bpe.gguf", "tokenizer.ggml.pre", "tokenizer.ggml.prx")),
              testing::HasSubstr("tokenizer.ggml.pre is missing"));
  EXPECT_THAT(error_of(*patched("bpe.gguf", "gpt2", "bert")), testing::HasSubstr("'bert'"));
  EXPECT_THAT(error_of(*patched("bpe.gguf", "tokenizer.ggml.model", "tokenizer.ggml.modem")),
              testing::HasSubstr("no tokenizer"));
}

TEST(GgufTokenizer, DamagedVocabulariesAreNamed) {
  EXPECT_THAT(error_of(*patched("bpe.gguf", "tokenizer.ggml.merges", "tokenizer.ggml.mergex")),
              testing::HasSubstr("tokenizer.ggml.merges"));
  EXPECT_THAT(error_of(*patched("bpe.gguf", "tokenizer.ggml.tokens", "tokenizer.ggml.tokenx")),
              testing::HasSubstr("tokenizer.ggml.tokens"));
  EXPECT_THAT(error_of(*patched("bpe.gguf", "</s>", "<\xff/>")), testing::HasSubstr("tokens[2] is not UTF-8"));
  EXPECT_THAT(error_of(*patched("spm.gguf", "<0x01>", "<0x02>")), testing::HasSubstr("there twice"));
  EXPECT_THAT(error_of(*patched("spm.gguf", "tokenizer.ggml.scores", "tokenizer.ggml.scorex")),
              testing::HasSubstr("tokenizer.ggml.scores"));
}

TEST(GgufTokenizer, EveryTruncatedFileIsRefusedOrRead) {
  const std::string whole = read_text_file(kData / "bpe.gguf");
  size_t refused = 0;
  for (size_t size = 0; size < whole.size(); size += 7) {
    auto prefix = std::make_shared<std::vector<char>>(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    try {
      make_tokenizer_from_json(tokenizer_from_gguf(*Gguf::parse(std::as_bytes(std::span(*prefix)), prefix)).tokenizer)
          ->encode("the quick", true);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, whole.size() / 8);
}

TEST(GgufPreTokenizers, EveryPatternCompilesAndNamesAreUnique) {
  for (const char* name :
       {"default",        "gpt-2",       "llama-bpe", "llama3",     "qwen2",      "smollm",           "deepseek-llm",
        "deepseek-coder", "deepseek-v3", "starcoder", "refact",     "command-r",  "falcon",           "mpt",
        "olmo",           "dbrx",        "stablelm2", "phi-2",      "jina-v2-de", "deepseek-r1-qwen", "gpt-4o",
        "tekken",         "viking",      "bloom",     "seed-coder", "bailingmoe", "exaone-moe",       "jais-2",
        "qwen35"}) {
    const GgufPreTokenizer* pre = find_gguf_pre_tokenizer(name);
    ASSERT_NE(pre, nullptr) << name;
    for (const std::string_view pattern : pre->patterns) EXPECT_NO_THROW(TokenPattern::from_regex(pattern)) << name;
  }
  EXPECT_EQ(find_gguf_pre_tokenizer("kimi-k2"), nullptr);
  EXPECT_EQ(find_gguf_pre_tokenizer(""), nullptr);
}

}  // namespace
}  // namespace nibble
