#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <thread>

#include "core/files.h"
#include "core/test_sanitized.h"
#include "model/tokenizer_cases_test.h"

namespace nibble {
namespace {

const std::filesystem::path kData = std::filesystem::path(NIBBLE_TEST_DATA) / "tokenizers";

Json golden(const std::string& name) { return read_json_file(kData / (name + ".json")); }

class JsonTokenizerGolden : public testing::TestWithParam<const char*> {};

TEST_P(JsonTokenizerGolden, AgreesWithTheTokenizersLibrary) {
  const auto tokenizer = make_tokenizer_from_json(golden(GetParam()));
  expect_cases(*tokenizer, golden(std::string(GetParam()) + ".cases"));
}

INSTANTIATE_TEST_SUITE_P(Small, JsonTokenizerGolden,
                         testing::Values("byte-level", "byte-level-prefix", "split-regex", "metaspace", "byte-fallback",
                                         "suffix", "prefix", "nfkc-lower", "nfd-accents", "nmt-replace",
                                         "byte-level-normalizer", "split-removed", "split-isolated",
                                         "split-merged-with-previous", "split-merged-with-next", "split-contiguous",
                                         "classes"),
                         [](const auto& golden_name) {
                           std::string name = golden_name.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(JsonTokenizer, ReadsMergesWrittenAsStrings) {
  Json json = golden("byte-level");
  for (Json& merge : json["model"]["merges"]) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  json["model"]["merges"].insert(json["model"]["merges"].begin(), "#version: 0.2");
  expect_cases(*make_tokenizer_from_json(json), golden("byte-level.cases"));
}

TEST(JsonTokenizer, KnowsItsTokens) {
  const auto tokenizer = make_tokenizer_from_json(golden("byte-level"));
  EXPECT_EQ(tokenizer->kind(), "byte-level BPE");
  EXPECT_EQ(tokenizer->find("<s>"), 1);
  EXPECT_EQ(tokenizer->token(2), "</s>");
  EXPECT_TRUE(tokenizer->is_special(1));
  EXPECT_EQ(tokenizer->find("no such token"), std::nullopt);
  const auto mask = tokenizer->find("[MASK]").value();
  EXPECT_EQ(tokenizer->vocab_size(), static_cast<size_t>(mask) + 5);
  EXPECT_FALSE(tokenizer->is_special(mask + 2));  // "tok"
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{1, mask, 2}, true), "");
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{1, mask, 2}, false), "<s>[MASK]</s>");
  EXPECT_EQ(make_tokenizer_from_json(golden("byte-fallback"))->kind(), "byte-fallback BPE");
}

TEST(JsonTokenizer, RefusesTextThatIsNotUtf8WithTheOffset) {
  const auto tokenizer = make_tokenizer_from_json(golden("byte-level"));
  try {
    tokenizer->encode("abc\xff", false);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_THAT(error.what(), testing::HasSubstr("byte 3"));
  }
}

TEST(JsonTokenizer, RefusesIdsOutsideTheVocabulary) {
  const auto tokenizer = make_tokenizer_from_json(golden("byte-level"));
  for (const TokenId id : {-1, static_cast<TokenId>(tokenizer->vocab_size()), INT32_MAX}) {
    EXPECT_THROW(tokenizer->decode(std::vector<TokenId>{id}, false), Error);
    EXPECT_THROW(tokenizer->token(id), Error);
    EXPECT_FALSE(tokenizer->is_special(id));
  }
}

TEST(JsonTokenizer, OneTokenizerServesManyThreads) {
  const auto tokenizer = make_tokenizer_from_json(golden("byte-level"));
  const Json cases = golden("byte-level.cases");
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (int repeat = 0; repeat < 5; ++repeat)
        for (const Json& c : cases)
          wrong[t] +=
              tokenizer->encode(c.at("text").get<std::string>(), false) != c.at("ids").get<std::vector<TokenId>>();
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

// Quadratic code would need minutes for these.
TEST(JsonTokenizer, LongWordsTakeLinearTime) {
  const size_t length = kSanitized ? 100'000 : 500'000;  // minutes for each if time were quadratic
  for (const char* name : {"byte-level", "split-regex", "byte-fallback"}) {
    const auto tokenizer = make_tokenizer_from_json(golden(name));
    for (const char* unit : {"a", " ", "ab", "\xf0\x9f\x9a\x80", "thequick", "\n", ".", "1"}) {
      std::string text;
      while (text.size() < length) text += unit;
      text += "x";
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, false), false), text) << name << " " << unit;
    }
  }
}

struct Damage {
  const char* what;  // part of the message expected
  ErrorKind kind;
  std::function<void(Json&)> apply;
};

TEST(JsonTokenizer, SaysWhatIsWrongWithADamagedFile) {
  constexpr auto kCorrupt = ErrorKind::kCorrupt;
  constexpr auto kUnsupported = ErrorKind::kUnsupported;
  const std::vector<Damage> all = {
      {"version '2.0'", kUnsupported, [](Json& j) { j["version"] = "2.0"; }},
      {"'model' is missing", kCorrupt, [](Json& j) { j.erase("model"); }},
      {"expected a JSON object", kCorrupt, [](Json& j) { j["model"] = 3; }},
      {"Unigram", kUnsupported, [](Json& j) { j["model"]["type"] = "Unigram"; }},
      {"WordPiece", kUnsupported, [](Json& j) { j["model"]["type"] = "WordPiece"; }},
      {"'vocab' should be an object", kCorrupt, [](Json& j) { j["model"]["vocab"] = Json::array(); }},
      {"should be an integer", kCorrupt, [](Json& j) { j["model"]["vocab"]["a"] = "x"; }},
      {"should be an integer", kCorrupt, [](Json& j) { j["model"]["vocab"]["a"] = UINT64_MAX; }},
      {"has id -4", kCorrupt, [](Json& j) { j["model"]["vocab"]["a"] = -4; }},
      {"has id 99999999", kCorrupt, [](Json& j) { j["model"]["vocab"]["a"] = 99999999; }},
      {"share id 5", kCorrupt, [](Json& j) { j["model"]["vocab"]["a"] = 5; }},
      {"'merges' should be an array", kCorrupt, [](Json& j) { j["model"]["merges"] = "a b"; }},
      {"merges[0]", kCorrupt, [](Json& j) { j["model"]["merges"][0] = "ab"; }},
      {"merges[1]", kCorrupt,
       [](Json& j) {
         j["model"]["merges"][1] = {"a", 1};
       }},
      {"needs token 'zz'", kCorrupt,
       [](Json& j) {
         j["model"]["merges"][2] = {"z", "z"};
       }},
      {"needs token 'unknown'", kCorrupt,
       [](Json& j) {
         j["model"]["merges"][2] = {"unknown", "z"};
       }},
      {"dropout", kUnsupported, [](Json& j) { j["model"]["dropout"] = 0.1; }},
      {"'fuse_unk'", kCorrupt, [](Json& j) { j["model"]["fuse_unk"] = "yes"; }},
      {"'scores'", kCorrupt,
       [](Json& j) {
         j["model"]["scores"] = {1, 2};
       }},
      {"normalizer Precompiled", kUnsupported,
       [](Json& j) {
         j["normalizer"] = {{"type", "Precompiled"}};
       }},
      {"'normalizers' should be an array", kCorrupt,
       [](Json& j) {
         j["normalizer"] = {{"type", "Sequence"}, {"normalizers", 1}};
       }},
      {"pre_tokenizer UnicodeScripts", kUnsupported,
       [](Json& j) {
         j["pre_tokenizer"] = {{"type", "UnicodeScripts"}};
       }},
      {"split behavior 'Sideways'", kUnsupported,
       [](Json& j) {
         j["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Sideways"}};
       }},
      {"regular expression", kUnsupported,
       [](Json& j) {
         j["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}};
       }},
      {"decoder CTC", kUnsupported,
       [](Json& j) {
         j["decoder"] = {{"type", "CTC"}};
       }},
      {"'content' should be one character", kCorrupt,
       [](Json& j) {
         j["decoder"] = {{"type", "Strip"}, {"content", "ab"}, {"start", 1}, {"stop", 0}};
       }},
      {"post_processor Surprise", kUnsupported,
       [](Json& j) {
         j["post_processor"] = {{"type", "Surprise"}};
       }},
      {"'single' should be an array", kCorrupt, [](Json& j) { j["post_processor"]["single"] = 1; }},
      {"special_tokens['<s>']", kCorrupt, [](Json& j) { j["post_processor"]["special_tokens"].erase("<s>"); }},
      {"adds token id 7777777", kCorrupt,
       [](Json& j) { j["post_processor"]["special_tokens"]["<s>"]["ids"] = {7777777}; }},
      {"'added_tokens' should be an array", kCorrupt, [](Json& j) { j["added_tokens"] = 1; }},
      {"added_tokens[1]: 'id'", kCorrupt, [](Json& j) { j["added_tokens"][1]["id"] = -1; }},
      {"'<s>' has id 77", kCorrupt, [](Json& j) { j["added_tokens"][1]["id"] = 77; }},
      {"absurdly large", kCorrupt,
       [](Json& j) {
         j["added_tokens"].push_back({{"id", 2000000000}, {"content", "far away"}});
       }},
      {"added_tokens[0]: 'content'", kCorrupt, [](Json& j) { j["added_tokens"][0]["content"] = nullptr; }},
  };
  for (const Damage& damage : all) {
    Json json = golden("byte-level");
    damage.apply(json);
    try {
      make_tokenizer_from_json(json);
      ADD_FAILURE() << "accepted: " << damage.what;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(damage.what));
      EXPECT_EQ(error.kind(), damage.kind) << error.what();
    }
  }
}

// A field at a time replaced by something else: an Error or a tokenizer that works, never a crash.
TEST(JsonTokenizer, SurvivesWrongTypesEverywhere) {
  const Json original = golden("byte-fallback");
  const Json flat = original.flatten();
  size_t refused = 0;
  size_t step = 0;
  for (const auto& [pointer, value] : flat.items()) {
    // The vocabulary and the merges are long lists of the same: every 50th entry will do.
    if ((pointer.starts_with("/model/vocab") || pointer.starts_with("/model/merges")) && step++ % 50 != 0) continue;
    for (const Json& other :
         {Json(), Json(true), Json(-1), Json(1e300), Json("\xc3\xa9"), Json::array(), Json::object()}) {
      Json json = original;
      json[Json::json_pointer(pointer)] = other;
      try {
        make_tokenizer_from_json(json)->encode("The quick [MASK] \xc3\xa9", true);
      } catch (const Error&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 300u);
}

TEST(JsonTokenizer, EveryTruncatedFileIsRefused) {
  const std::string whole = read_text_file(kData / "split-removed.json");
  ASSERT_NO_THROW(make_tokenizer_from_json(parse_json(whole, "whole")));
  for (size_t size = 0; size + 2 < whole.size(); ++size) {
    const std::vector<char> prefix(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THROW(make_tokenizer_from_json(parse_json({prefix.data(), prefix.size()}, "prefix")), Error) << size;
  }
}

}  // namespace
}  // namespace nibble
