#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "core/files.h"
#include "core/json.h"
#include "model/tokenizer.h"

namespace nibble {

inline std::string streamed(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  StreamDecoder decoder(tokenizer, /*skip_special=*/false);
  std::string text;
  for (const TokenId id : ids) text += decoder.add(id);
  return text + decoder.finish();
}

// `cases`: [{"text", "ids", "decoded", "special" (optional)}], what another implementation made of the texts.
inline void expect_cases(const Tokenizer& tokenizer, const Json& cases) {
  ASSERT_FALSE(cases.empty());
  for (const Json& c : cases) {
    const auto text = c.at("text").get<std::string>();
    const auto ids = c.at("ids").get<std::vector<TokenId>>();
    const std::string shown = Json(text).dump().substr(0, 200);
    EXPECT_EQ(tokenizer.encode(text, false), ids) << shown;
    if (c.contains("special")) {
      EXPECT_EQ(tokenizer.encode(text, true), c.at("special").get<std::vector<TokenId>>()) << shown;
    }
    EXPECT_EQ(tokenizer.decode(ids, false), c.at("decoded").get<std::string>()) << shown;
    EXPECT_EQ(streamed(tokenizer, ids), c.at("decoded").get<std::string>()) << shown;
  }
}

// Full-size vocabularies are too large, and not ours, to be kept here. NIBBLE_GOLDEN names a folder with
//   tokenizers/NAME/{tokenizer.json, cases.json}   what the tokenizers library makes of texts
//   gguf-vocab/NAME.gguf{, .inp, .out}             llama.cpp's own test vectors
// Nothing where there is none.
inline std::optional<std::filesystem::path> golden_folder(const char* name) {
  const char* root = std::getenv("NIBBLE_GOLDEN");
  if (!root || !std::filesystem::is_directory(std::filesystem::path(root) / name)) return std::nullopt;
  return std::filesystem::path(root) / name;
}

// The vectors beside a vocabulary of llama.cpp's. Returns how many there are.
inline size_t expect_llama_vectors(const Tokenizer& tokenizer, const std::filesystem::path& vocabulary) {
  const std::string texts = read_text_file(vocabulary.string() + ".inp");
  std::istringstream lines(read_text_file(vocabulary.string() + ".out"));
  constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
  size_t at = 0, seen = 0;
  for (std::string line; std::getline(lines, line); ++seen) {
    const size_t end = std::min(texts.find(kSeparator, at), texts.size());
    std::istringstream numbers(line);
    const std::vector<TokenId> want{std::istream_iterator<TokenId>(numbers), std::istream_iterator<TokenId>()};
    const std::string_view text = std::string_view(texts).substr(std::min(at, texts.size()), end - at);
    EXPECT_EQ(tokenizer.encode(text, false), want) << text;
    at = end + kSeparator.size();
  }
  return seen;
}

}  // namespace nibble
