#include <sentencepiece_processor.h>

#include "core/text.h"
#include "model/added_tokens.h"
#include "model/token_text.h"
#include "model/tokenizer.h"

namespace nibble {
namespace {

void check(const sentencepiece::util::Status& status, std::string_view what) {
  if (!status.ok()) throw Error(ErrorKind::kCorrupt, cat(what, ": ", status.error_message()));
}

// libsentencepiece does the work; added here: control pieces in the text, and text for them when decoding.
class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string_view model_proto, const SentencePieceOptions& options) : options_(options) {
    check(processor_.LoadFromSerializedProto(absl::string_view(model_proto.data(), model_proto.size())),
          "not a SentencePiece model");
    for (int id = 0; id < processor_.GetPieceSize(); ++id) {
      if (!is_special(id)) continue;
      AddedToken token;
      token.id = id;
      token.content = processor_.IdToPiece(id);
      token.special = true;
      specials_.add(token);
    }
  }

  std::vector<TokenId> encode(std::string_view text, bool add_special) const override {
    if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos)
      throw Error(ErrorKind::kUsage, cat("the text is not UTF-8 at byte ", bad));
    std::vector<TokenId> ids;
    if (add_special && options_.add_bos && processor_.bos_id() >= 0) ids.push_back(processor_.bos_id());
    std::vector<AddedTokenMatcher::Part> parts;
    specials_.split(text, parts);
    std::vector<int> pieces;
    for (const auto& part : parts) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      check(processor_.Encode(absl::string_view(text.data() + part.begin, part.end - part.begin), &pieces),
            "SentencePiece");
      ids.insert(ids.end(), pieces.begin(), pieces.end());
    }
    if (add_special && options_.add_eos && processor_.eos_id() >= 0) ids.push_back(processor_.eos_id());
    return ids;
  }

  std::string decode(std::span<const TokenId> ids, bool skip_special) const override {
    std::string text;
    std::vector<int> run;
    const auto flush = [&] {
      std::string part;
      if (!run.empty()) check(processor_.Decode(run, &part), "SentencePiece");
      text += part;
      run.clear();
    };
    for (const TokenId id : ids) {
      check_id(id);
      if (!is_special(id)) {
        run.push_back(id);
      } else if (!skip_special) {
        flush();
        text += processor_.IdToPiece(id);
      }
    }
    flush();
    return replace_invalid_utf8(text);
  }

  size_t vocab_size() const override { return static_cast<size_t>(processor_.GetPieceSize()); }

  std::optional<TokenId> find(std::string_view token) const override {
    const int id = processor_.PieceToId(absl::string_view(token.data(), token.size()));
    // An unknown piece gives the id of <unk>.
    if (id < 0 || id >= processor_.GetPieceSize() || processor_.IdToPiece(id) != token) return std::nullopt;
    return id;
  }

  std::string token(TokenId id) const override {
    check_id(id);
    return processor_.IdToPiece(id);
  }

  bool is_special(TokenId id) const override {
    return id >= 0 && id < processor_.GetPieceSize() && (processor_.IsControl(id) || processor_.IsUnknown(id));
  }

  std::string kind() const override { return "SentencePiece"; }

 private:
  void check_id(TokenId id) const {
    if (id < 0 || id >= processor_.GetPieceSize())
      throw Error(ErrorKind::kUsage,
                  cat("token id ", id, " is not in the vocabulary, whose ids are below ", processor_.GetPieceSize()));
  }

  sentencepiece::SentencePieceProcessor processor_;
  SentencePieceOptions options_;
  AddedTokenMatcher specials_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_tokenizer_from_sentencepiece(std::string_view model_proto,
                                                             const SentencePieceOptions& options) {
  return std::make_unique<SentencePieceTokenizer>(model_proto, options);
}

}  // namespace nibble
