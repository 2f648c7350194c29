#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "model/tokenizer.h"

// Seeds: split-removed.json classes.json nmt-replace.json suffix.json byte-fallback.json byte-level.json

// A tokenizer.json, perhaps followed by a NUL and a text: an Error, or a tokenizer that encodes the text, decodes and
// streams what it encoded.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), input.size());
  const std::string_view text =
      end < input.size() ? input.substr(end + 1) : "The quick [MASK] br\xc3\xb6wn fox,\n 12<s>  tok\xf0\x9f\x9a\x80";
  try {
    const auto tokenizer = nibble::make_tokenizer_from_json(nibble::parse_json(input.substr(0, end), "input"));
    const std::vector<nibble::TokenId> ids = tokenizer->encode(text, true);
    if (ids != tokenizer->encode(text, true)) __builtin_trap();  // the second time from the cache
    const std::string decoded = tokenizer->decode(ids, false);
    nibble::StreamDecoder stream(*tokenizer, true);
    for (const nibble::TokenId id : ids) {
      if (id < 0 || static_cast<size_t>(id) >= tokenizer->vocab_size()) __builtin_trap();
      stream.add(id);
    }
    stream.finish();
  } catch (const nibble::Error&) {
  }
  return 0;
}
