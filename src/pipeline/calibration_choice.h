#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "pipeline/chat.h"

namespace nibble {

// Which tokens statistics are collected on.
struct CalibrationChoice {
  std::string from = "self";  // or a file: .jsonl, .json, or else a text
  size_t samples = 128;       // documents, at most; 0: no tokens, for algorithms that look at the blocks' weights alone
  size_t seqlen = 512;        // tokens of a document, at most
  uint64_t seed = 0;          // of `self`
  BosChoice bos = BosChoice::kNo;
};

// What somebody asked for; the rest is up to who runs it.
struct CalibrationChange {
  std::optional<std::string> from;
  std::optional<size_t> samples, seqlen;
  std::optional<uint64_t> seed;
  std::optional<BosChoice> bos;

  bool empty() const { return *this == CalibrationChange{}; }
  CalibrationChoice over(const CalibrationChoice& defaults) const {
    return {from.value_or(defaults.from), samples.value_or(defaults.samples), seqlen.value_or(defaults.seqlen),
            seed.value_or(defaults.seed), bos.value_or(defaults.bos)};
  }
  friend bool operator==(const CalibrationChange&, const CalibrationChange&) = default;
};

}  // namespace nibble
