#include <gtest/gtest.h>

#include <filesystem>

#include "core/files.h"
#include "model/load_tokenizer.h"
#include "model/tokenizer_cases_test.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

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
    seen += expect_llama_vectors(*tokenizer, entry.path());
  }
  EXPECT_GT(seen, 40u);
}

}  // namespace
}  // namespace nibble
