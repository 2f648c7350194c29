#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace nibble {

// llama.cpp's "importance matrix": for the inputs of each matrix, sums over calibration tokens.
struct Imatrix {
  struct Entry {
    std::vector<float> sums;  // [cols], of squares
    double tokens = 0;        // that were summed
    friend bool operator==(const Entry&, const Entry&) = default;
  };
  std::map<std::string, Entry, std::less<>> entries;  // by GGUF tensor name, "blk.0.attn_q.weight"
  std::vector<std::string> datasets;
  uint32_t chunks = 0, chunk_size = 0;  // documents, and tokens of one
};

// A file in either of llama.cpp's formats: GGUF (tensors NAME.in_sum2 and NAME.counts) or the older binary one, whose
// sums are already divided by its counts of calls. Matrices of several experts are refused. Throws Error; the text
// starts with the file's name.
Imatrix read_imatrix(const std::filesystem::path& path);
// The same of bytes in memory, for tests and fuzzing.
Imatrix parse_imatrix(std::span<const std::byte> bytes);
// As GGUF. The file appears whole or not at all; `force` as for StagedOutput.
void write_imatrix(const Imatrix& imatrix, const std::filesystem::path& path, bool force);
// Adds the sums of both; throws Error(kUsage) when a matrix has different widths in them.
void merge(Imatrix& into, const Imatrix& other);

}  // namespace nibble
