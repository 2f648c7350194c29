#pragma once
#include "formats/gguf_writer.h"
#include "model/source.h"

namespace nibble {

// The tokenizer of a Hugging Face source as GGUF metadata (tokenizer.*): byte-level BPE ("gpt2", with the name of its
// pre-tokenizer) from tokenizer.json, SentencePiece BPE ("llama") from tokenizer.model or a tokenizer.json with byte
// fallback, special tokens and the chat template. `vocab_size`: rows of the embedding; tokens that the tokenizer lacks
// are filled up. A source without a tokenizer gets "none". Throws Error(kUnsupported) for what GGUF has no words for.
void add_gguf_vocabulary(const Source& source, size_t vocab_size, GgufMetadata& metadata);

}  // namespace nibble
