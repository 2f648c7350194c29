#include "pipeline/calibration_data.h"

#include <gmock/gmock.h>

#include "core/files.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "pipeline/tiny_model.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using Documents = std::vector<std::vector<TokenId>>;

constexpr TokenId kBos = 0, kEos = 1, kNewline = 2;
TokenId letter(char c) { return 4 + c - 'a'; }

// "<s>" and "</s>", a newline, "\r", and the letters, each a token of its own.
Json letter_tokenizer() {
  Json vocab = {{"<s>", kBos}, {"</s>", kEos}, {"\n", kNewline}, {"\r", 3}};
  for (char c = 'a'; c <= 'z'; ++c) vocab[std::string(1, c)] = letter(c);
  const auto special = [](TokenId id, const char* text) {
    return Json{{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", true}};
  };
  return {{"added_tokens", {special(kBos, "<s>"), special(kEos, "</s>")}},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single",
             {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
            {"pair", Json::array()},
            {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {kBos}}, {"tokens", {"<s>"}}}}}}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
}

class LoadCalibration : public testing::Test {
 protected:
  LoadCalibration() {
    TinyModel().write(folder_ / "model");
    write_text_file(folder_ / "model" / "tokenizer.json", letter_tokenizer().dump());
    write_text_file(folder_ / "model" / "tokenizer_config.json",
                    R"({"eos_token": "</s>", "chat_template":
                        "{% for m in messages %}<s>{{ m.role[0] + m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"})");
  }

  CalibrationData load(const std::string& name, const std::string& contents, size_t samples, size_t seqlen,
                       BosChoice bos = BosChoice::kNo) {
    write_text_file(folder_ / name, contents);
    const auto source = Source::open(folder_ / "model");
    return load_calibration(*source, {(folder_ / name).string(), samples, seqlen, 0, bos}, no_progress());
  }
  std::string failure(const std::string& name, const std::string& contents, size_t samples = 4, size_t seqlen = 4) {
    return error_text([&] { load(name, contents, samples, seqlen); });
  }

  TestFolder folder_;
};

std::vector<TokenId> letters(const std::string& text) {
  std::vector<TokenId> ids;
  for (const char c : text) ids.push_back(c == '\n' ? kNewline : c == '<' ? kBos : c == '>' ? kEos : letter(c));
  return ids;
}

TEST_F(LoadCalibration, TextIsCutIntoConsecutiveWindows) {
  const CalibrationData data = load("a.txt", "abcdef\r\nghijkl", 10, 4);
  EXPECT_EQ(data.documents, (Documents{letters("abcd"), letters("ef\ng"), letters("hijk")}));
  EXPECT_EQ(data.tokens(), 12u);
  EXPECT_THAT(data.notes, ElementsAre(HasSubstr("3 of the 10 documents")));
  EXPECT_THAT(load("a.txt", "abcdef\r\nghijkl", 3, 4).notes, IsEmpty());
  EXPECT_EQ(load("a.txt", "abcdef", 1, 4).documents, (Documents{letters("abcd")}));
}

TEST_F(LoadCalibration, AShortTextIsOneShortWindow) {
  const CalibrationData data = load("a.txt", "abc", 1, 4);
  EXPECT_EQ(data.documents, (Documents{letters("abc")}));
  EXPECT_THAT(data.notes, SizeIs(1));
}

TEST_F(LoadCalibration, OfALongTextOnlyTheBeginningIsRead) {
  std::string text;
  for (size_t i = 0; i < 5000; ++i)
    text += cat(std::string(1, static_cast<char>('a' + i % 26)), i % 7 == 0 ? "\n" : "");
  EXPECT_EQ(load("a.txt", text + "Not a letter.", 2, 3).documents,
            (Documents{letters(text.substr(0, 3)), letters(text.substr(3, 3))}));
  const std::string line(100'000, 'a');  // no place to stop at
  EXPECT_EQ(load("a.txt", line, 2, 3).documents, (Documents{letters("aaa"), letters("aaa")}));
}

TEST_F(LoadCalibration, BosTakesThePlaceOfTheFirstToken) {
  const Documents with = {letters("<bc"), letters("<ef")};
  EXPECT_EQ(load("a.txt", "abcdef", 2, 3, BosChoice::kYes).documents, with);
  EXPECT_EQ(load("a.txt", "abcdef", 2, 3, BosChoice::kAuto).documents, with);
  EXPECT_EQ(load("a.jsonl", R"({"text": "abcdef"})", 2, 3, BosChoice::kYes).documents, with);
}

TEST_F(LoadCalibration, TextsArePackedWithEosBetween) {
  const char* lines =
      "{\"text\": \"abc\"}\r\n\n{\"text\": \"\"}\n{\"text\": \"de\", \"meta\": 1}\n{\"text\": \"fgh\"}\n";
  EXPECT_EQ(load("a.jsonl", lines, 5, 5).documents, (Documents{letters("abc>d"), letters("e>fgh")}));
  EXPECT_EQ(load("a.json", R"([{"text": "abc"}, {"text": "de"}])", 1, 9).documents, (Documents{letters("abc>de")}));
}

TEST_F(LoadCalibration, ConversationsAreWrittenByTheTemplate) {
  const char* lines =
      "{\"messages\": [{\"role\": \"user\", \"content\": \"ab\"}, {\"role\": \"assistant\", \"content\": \"c\"}]}\n"
      "{\"messages\": [{\"role\": \"user\", \"content\": \"d\"}]}\n"
      "{\"text\": \"ef\"}\n";
  EXPECT_EQ(load("a.jsonl", lines, 1, 99).documents, (Documents{letters("<uab><ac><ud>ef")}));
}

TEST_F(LoadCalibration, TokenIdsAreDocumentsAsTheyAre) {
  const Documents want = {{5, 6, 7}, {9}, {1, 2, 3}};
  const char* lines = "[5, 6, 7, 8]\n{\"ids\": [9]}\n[1, 2, 3]\n";
  EXPECT_EQ(load("a.jsonl", lines, 3, 3).documents, want);
  EXPECT_EQ(load("a.json", "[[5, 6, 7, 8], {\"ids\": [9]}, [1, 2, 3], [4]]", 3, 3, BosChoice::kYes).documents, want);
  std::filesystem::remove(folder_ / "model" / "tokenizer.json");
  EXPECT_EQ(load("a.jsonl", lines, 3, 3).documents, want);
  EXPECT_THAT(failure("a.txt", "abc"), HasSubstr("tokenizer"));
}

TEST_F(LoadCalibration, SaysWhatIsWrongAndWhere) {
  EXPECT_THAT(failure("a.jsonl", "{\"text\": \"a\"}\n\n{\"text\": 3}\n"), HasSubstr("a.jsonl: line 3: 'text'"));
  EXPECT_THAT(failure("a.jsonl", "{\"text\": \"a\"}\n{\"text\"\n"),
              HasSubstr("a.jsonl: line 2: entry: not valid JSON"));
  EXPECT_THAT(failure("a.jsonl", "3\n"), HasSubstr("line 1: should be an object"));
  EXPECT_THAT(failure("a.jsonl", "{\"txt\": \"a\"}\n"), HasSubstr("line 1: has neither 'text' nor"));
  EXPECT_THAT(failure("a.jsonl", "{\"messages\": [3]}\n"), HasSubstr("line 1: a message should be an object"));
  EXPECT_THAT(failure("a.jsonl", "{\"messages\": []}\n"), HasSubstr("line 1: 'messages' should be a list"));
  EXPECT_THAT(failure("a.jsonl", "{\"messages\": [{\"role\": \"user\"}]}\n"),
              HasSubstr("line 1: 'content' is missing"));
  EXPECT_THAT(failure("a.jsonl", "[1, 2.5]\n"), HasSubstr("line 1: a token id should be an integer, found 2.5"));
  EXPECT_THAT(failure("a.jsonl", "[1]\n[]\n"), HasSubstr("line 2: the list of token ids is empty"));
  EXPECT_THAT(failure("a.jsonl", "[1]\n{\"text\": \"a\"}\n"), HasSubstr("line 2: token ids and text are mixed"));
  EXPECT_THAT(failure("a.jsonl", "{\"text\": \"a\"}\n[1]\n"), HasSubstr("line 2: token ids and text are mixed"));
  EXPECT_THAT(failure("a.jsonl", "[1, 2]\n[3, 128]\n"), HasSubstr("document 2: token id 128 at 1 is outside"));
  EXPECT_THAT(failure("a.jsonl", "[-1]\n"), HasSubstr("token id -1 at 0 is outside"));
  EXPECT_THAT(failure("a.json", "{\"text\": \"a\"}"), HasSubstr("should be a list of entries"));
  EXPECT_THAT(failure("a.json", "[{\"text\": \"a\"}, 3]"), HasSubstr("a.json: entry 2: should be an object"));
  EXPECT_THAT(failure("a.txt", "\xff"), HasSubstr("a.txt: "));
  for (const char* name : {"a.txt", "a.jsonl"}) EXPECT_THAT(failure(name, ""), HasSubstr("holds no text"));
  EXPECT_THAT(failure("a.json", "[]"), HasSubstr("holds no text"));
  EXPECT_THAT(failure("a.txt", "abc", 0), HasSubstr("--samples"));
  EXPECT_THAT(failure("a.txt", "abc", 1, size_t{1} << 40), HasSubstr("--seqlen"));
  const auto source = Source::open(folder_ / "model");
  for (const char* name : {"none.txt", "none.jsonl", "none.json"})
    EXPECT_THAT(error_text([&] { load_calibration(*source, {name}, no_progress()); }), HasSubstr(name));
  write_text_file(folder_ / "model" / "tokenizer_config.json", "{}");
  EXPECT_THAT(failure("a.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n"),
              HasSubstr("line 1: "));
}

TEST_F(LoadCalibration, IsDescribed) {
  const CalibrationData data = load("a.txt", "abcdef", 2, 3);
  EXPECT_THAT(data.description(), HasSubstr("a.txt: 2 documents, 6 tokens, hash " + data.hash()));
  EXPECT_EQ(data.hash(), load("b.txt", "abcdefg", 2, 3).hash());
  EXPECT_NE(data.hash(), load("b.txt", "abcdeg", 2, 3).hash());
  EXPECT_NE(data.hash(), load("b.txt", "abcdef", 3, 2).hash());
  const OrderedJson json = to_json(data);
  EXPECT_EQ(json.at("documents"), 2);
  EXPECT_EQ(json.at("tokens"), 6);
  EXPECT_EQ(json.at("hash"), data.hash());
}

TEST(CalibrationChange, IsLaidOverDefaults) {
  EXPECT_TRUE(CalibrationChange().empty());
  const CalibrationChange change{.from = "a.txt", .samples = {}, .seqlen = 64, .seed = {}, .bos = {}};
  EXPECT_FALSE(change.empty());
  const CalibrationChoice choice = change.over({.samples = 32, .seed = 7});
  EXPECT_EQ(choice.from, "a.txt");
  EXPECT_EQ(choice.samples, 32u);
  EXPECT_EQ(choice.seqlen, 64u);
  EXPECT_EQ(choice.seed, 7u);
}

}  // namespace
}  // namespace nibble
