#pragma once
#include <vector>

#include "core/json.h"
#include "model/tokenizer.h"

namespace nibble {

// What encode(add_special) puts around a text: tokenizer.json's "post_processor" for a single sequence.
struct PostProcessor {
  std::vector<TokenId> before;
  std::vector<TokenId> after;
};

// Types that only adjust offsets give nothing to add. Throws Error(kUnsupported) naming an unknown type or a template
// that is not SPECIALS TEXT SPECIALS, Error(kCorrupt) naming a wrong field.
PostProcessor make_post_processor(const Json& description);

}  // namespace nibble
