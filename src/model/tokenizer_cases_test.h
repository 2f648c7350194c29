#pragma once
#include <gtest/gtest.h>

#include <string>
#include <vector>

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

}  // namespace nibble
