// Full-size vocabularies, from a Hugging Face folder into a GGUF file and read there.
#include <gtest/gtest.h>

#include <filesystem>

#include "core/files.h"
#include "core/test_folder.h"
#include "model/gguf_tokenizer.h"
#include "model/load_tokenizer.h"
#include "model/tokenizer_cases_test.h"
#include "pipeline/quantize.h"
#include "pipeline/tiny_model.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class GgufVocabularyGolden : public testing::Test {
 protected:
  // A model with these tokenizer files, as GGUF; its tokenizer.
  std::unique_ptr<Tokenizer> through_gguf(const std::map<std::string, std::string>& files) {
    const Json json = Json::parse(files.at("tokenizer.json"));
    size_t tokens = 0;
    for (const auto& [text, id] : json["model"]["vocab"].items()) tokens = std::max(tokens, id.get<size_t>() + 1);
    for (const Json& added : json["added_tokens"]) tokens = std::max(tokens, added["id"].get<size_t>() + 1);
    fs::remove_all(folder_ / "model");
    fs::remove(folder_ / "out.gguf");
    TinyModel model;
    model.hidden = model.intermediate = 16;
    model.layers = 1;
    model.vocab = tokens;
    model.tied = true;
    model.write(folder_ / "model");
    for (const auto& [name, text] : files) write_text_file(folder_ / "model" / name, text);
    const auto source = Source::open(folder_ / "model");
    const ExporterEntry& entry = find_exporter("gguf");
    run_plan(*source, make_convert_plan(*source, DType::kF16, entry), {&entry}, folder_ / "out.gguf");
    return load_tokenizer(folder_ / "out.gguf");
  }
  TestFolder folder_;
};

TEST_F(GgufVocabularyGolden, TokenizerJson) {
  const auto root = golden_folder("tokenizers");
  if (!root) GTEST_SKIP() << "NIBBLE_GOLDEN is not set";
  size_t seen = 0;
  for (const auto& entry : fs::directory_iterator(*root)) {
    SCOPED_TRACE(entry.path().string());
    std::map<std::string, std::string> files;
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
      files[name] = read_text_file(entry.path() / name);
    Json cases = read_json_file(entry.path() / "cases.json");
    // Metaspace puts its sign before a text that has no space there, GGUF's "llama" before every one.
    if (Json::parse(files["tokenizer.json"])["pre_tokenizer"]["type"] == "Metaspace")
      std::erase_if(cases.get_ref<Json::array_t&>(),
                    [](const Json& c) { return c["text"].get_ref<const std::string&>().starts_with(' '); });
    EXPECT_GT(cases.size(), 20u);
    expect_cases(*through_gguf(files), cases);
    ++seen;
  }
  EXPECT_GT(seen, 3u);
}

// Read from a GGUF, kept as a Hugging Face folder, and written as GGUF again.
TEST_F(GgufVocabularyGolden, LlamaVectors) {
  const auto root = golden_folder("gguf-vocab");
  if (!root) GTEST_SKIP() << "NIBBLE_GOLDEN is not set";
  size_t seen = 0;
  for (const auto& entry : fs::directory_iterator(*root)) {
    if (entry.path().extension() != ".gguf") continue;
    SCOPED_TRACE(entry.path().string());
    const GgufTokenizerFiles files = tokenizer_from_gguf(*Gguf::open(entry.path()));
    const auto tokenizer = through_gguf(
        {{"tokenizer.json", files.tokenizer.dump()}, {"tokenizer_config.json", files.tokenizer_config.dump()}});
    seen += expect_llama_vectors(*tokenizer, entry.path());
  }
  EXPECT_GT(seen, 40u);
}

}  // namespace
}  // namespace nibble
