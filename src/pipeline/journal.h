#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "pipeline/calibration_data.h"

namespace nibble {

// The first file of a work folder: what is being made there, and on which tokens. Only a run that makes the same may
// continue.
struct Journal {
  std::string key;  // everything that decides the bytes of the result
  CalibrationData data;
};

// Whole or not at all. Throws Error(kIo).
void write_journal(const Journal& journal, const std::filesystem::path& folder);
// Nothing when `folder` has no journal yet. Throws Error(kUsage) when it has one with another key, Error(kCorrupt) for
// a damaged one.
std::optional<Journal> read_journal(const std::filesystem::path& folder, const std::string& key);

}  // namespace nibble
