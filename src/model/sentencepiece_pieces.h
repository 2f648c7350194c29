#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

// One piece of a SentencePiece vocabulary.
struct SentencePiece {
  enum class Type : uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };  // numbers of its schema
  std::string text;
  float score;
  Type type;
};

// The pieces of a tokenizer.model, by id. Throws Error(kCorrupt).
std::vector<SentencePiece> sentencepiece_pieces(std::string_view model_proto);

}  // namespace nibble
