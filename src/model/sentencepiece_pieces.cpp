#include "model/sentencepiece_pieces.h"

#include <sentencepiece_processor.h>

#include "core/error.h"

namespace nibble {

std::vector<SentencePiece> sentencepiece_pieces(std::string_view model_proto) {
  sentencepiece::SentencePieceProcessor processor;
  const auto status = processor.LoadFromSerializedProto(absl::string_view(model_proto.data(), model_proto.size()));
  if (!status.ok()) throw Error(ErrorKind::kCorrupt, cat("not a SentencePiece model: ", status.error_message()));
  std::vector<SentencePiece> pieces;
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    using Type = SentencePiece::Type;
    const Type type = processor.IsUnknown(id)   ? Type::kUnknown
                      : processor.IsControl(id) ? Type::kControl
                      : processor.IsUnused(id)  ? Type::kUnused
                      : processor.IsByte(id)    ? Type::kByte
                                                : Type::kNormal;
    pieces.push_back({processor.IdToPiece(id), processor.GetScore(id), type});
  }
  return pieces;
}

}  // namespace nibble
