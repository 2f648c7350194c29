#pragma once
#include "core/json.h"
#include "model/bpe.h"

namespace nibble {

// tokenizer.json's "model" object. Throws Error(kUnsupported) for models other than BPE and for dropout,
// Error(kCorrupt) naming the field for wrong types, ids that are absurd or used twice, and merges of unknown tokens.
TokenTable vocabulary_from_json(const Json& model);
// With an array "scores" (by id; null: never made by merging) pairs merge as SentencePiece does, and "merges" are not
// read.
Bpe bpe_from_json(const Json& model, const TokenTable& vocab);

}  // namespace nibble
