#pragma once
#include <string>
#include <vector>

#include "core/json.h"
#include "core/progress.h"
#include "model/source.h"
#include "model/tokenizer.h"
#include "pipeline/calibration_choice.h"

namespace nibble {

struct CalibrationData {
  std::vector<std::vector<TokenId>> documents;  // each of 1 to seqlen tokens, ids within the vocabulary
  std::string source;                           // "self (seed 0)" or the file, for people
  std::vector<std::string> notes;               // what the user may not expect: less text than asked for
  size_t samples = 0;                           // runs of an ONNX graph that is no decoder we know
  std::string engine{};                         // who ran it: "ONNX Runtime 1.22.0"

  bool empty() const { return documents.empty() && samples == 0; }
  size_t tokens() const;
  std::string hash() const;         // 16 hexadecimal digits over all ids and lengths: equal data, equal hash
  std::string description() const;  // "novel.txt: 32 documents, 16384 tokens, hash 0123456789abcdef"
};
OrderedJson to_json(const CalibrationData& data);

// Loads or samples the documents that `choice` names:
//   self    the model's own text; see self_calibration.h
//   .jsonl  an object in each line with `text`, with `messages` (through the model's chat template), or with `ids`; or
//           an array of ids. A .json file holds an array of the same.
//   others  UTF-8 text, CRLF read as LF, special tokens in it recognised, none added.
// Text is one stream, cut into consecutive windows of seqlen tokens, of which the first `samples` are taken; an
// incomplete last one only when it is the only one. In the stream the tokenizer's EOS follows each `text` but the last;
// conversations have the special tokens that the template writes. A BOS takes the place of each window's first token.
// Token ids are documents as they are, cut to seqlen. Sources without a config() have no vocabulary to check them by.
// Throws Error(kUsage) for choices out of range, a text without a tokenizer or template, and when there is nothing;
// Error(kCorrupt) with file, line and reason for what cannot be read.
CalibrationData load_calibration(const Source& source, const CalibrationChoice& choice, Progress& progress);

}  // namespace nibble
