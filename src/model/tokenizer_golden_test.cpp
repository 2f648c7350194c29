// Full-size vocabularies are too large, and not ours, to be kept here. NIBBLE_GOLDEN names a folder with
//   tokenizers/NAME/{tokenizer.json, cases.json}   what the tokenizers library makes of texts
//   gguf-vocab/NAME.gguf{, .inp, .out}             llama.cpp's own test vectors
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <optional>
#include <sstream>

#include "core/files.h"
#include "model/load_tokenizer.h"
#include "model/tokenizer_cases_test.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

std::optional<fs::path> golden_folder(const char* name) {
  const char* root = std::getenv("NIBBLE_GOLDEN");
  if (!root || !fs::is_directory(fs::path(root) / name)) return std::nullopt;
  return fs::path(root) / name;
}

TEST(TokenizerGolden, TokenizerJson) {
  const auto root = golden_folder("tokenizers");
  if (!root) GTEST_SKIP() << "NIBBLE_GOLDEN is not set";
  size_t seen = 0;
  for (const auto& entry : fs::directory_iterator(*root)) {
    SCOPED_TRACE(entry.path().string());
    expect_cases(*load_tokenizer(entry.path()), read_json_file(entry.path() / "cases.json"));
    ++seen;
  }
  EXPECT_GT(seen, 0u);
}

TEST(TokenizerGolden, GgufVocabularies) {
  const auto root = golden_folder("gguf-vocab");
  if (!root) GTEST_SKIP() << "NIBBLE_GOLDEN is not set";
  size_t seen = 0;
  for (const auto& entry : fs::directory_iterator(*root)) {
    if (entry.path().extension() != ".gguf") continue;
    SCOPED_TRACE(entry.path().string());
    const auto tokenizer = load_tokenizer(entry.path());
    const std::string texts = read_text_file(entry.path().string() + ".inp");
    std::istringstream lines(read_text_file(entry.path().string() + ".out"));
    constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
    size_t at = 0;
    for (std::string line; std::getline(lines, line); ++seen) {
      ASSERT_LE(at, texts.size());
      const size_t end = std::min(texts.find(kSeparator, at), texts.size());
      std::istringstream numbers(line);
      const std::vector<TokenId> want{std::istream_iterator<TokenId>(numbers), std::istream_iterator<TokenId>()};
      EXPECT_EQ(tokenizer->encode(std::string_view(texts).substr(at, end - at), false), want)
          << texts.substr(at, end - at);
      at = end + kSeparator.size();
    }
  }
  EXPECT_GT(seen, 40u);
}

}  // namespace
}  // namespace nibble
