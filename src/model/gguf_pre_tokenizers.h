#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

// How text is cut into words before the merges of a byte-level GGUF vocabulary: what a tokenizer.ggml.pre name means.
struct GgufPreTokenizer {
  std::vector<std::string_view> names;
  // Applied one after the other, each to what the one before left; every match is a piece. Oniguruma syntax, as in the
  // tokenizer.json of the models concerned.
  std::vector<std::string_view> patterns;
  bool ignore_merges = false;  // a word that is a token as a whole is that token
  bool add_bos = false;        // unless tokenizer.ggml.add_bos_token says otherwise
};

// Null for a name that is not known.
const GgufPreTokenizer* find_gguf_pre_tokenizer(std::string_view name);

// The one that cuts with these patterns, if possible with the same ignore_merges; null when none does.
const GgufPreTokenizer* match_gguf_pre_tokenizer(const std::vector<std::string>& patterns, bool ignore_merges);

// GPT-2's pattern, which tokenizer.json's ByteLevel pre-tokenizer applies with use_regex.
extern const std::string_view kGpt2Pattern;

}  // namespace nibble
