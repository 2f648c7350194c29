#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "model/config.h"

namespace nibble {

// What llama.cpp calls a file type: which GGML type each tensor of a GGUF file gets. Semantics: llama-quant.cpp of
// llama.cpp, for decoders without experts.
struct GgufScheme {
  std::string_view name;  // "Q4_K_M"
  uint32_t file_type;     // general.file_type
  DType base;             // of what has no reason to differ; a float type: nothing is quantized
};

// Case-insensitive; "Q3_K", "Q4_K" and "Q5_K" are their M mixes. Null for other names.
const GgufScheme* find_gguf_scheme(std::string_view name);
std::vector<std::string> gguf_scheme_names();

// The matrix that a mix decides about.
struct GgufMatrix {
  Slot slot;
  size_t layer;  // 0 outside of blocks
  size_t cols;
  bool importance;  // are there statistics of its inputs?
};
// The type that the scheme means for a matrix of such a model, before its width is looked at.
DType gguf_mix(const GgufScheme& scheme, const ModelConfig& config, const GgufMatrix& matrix);
// The type for `bits` bits: Q2_K ... Q6_K, Q8_0; nothing for others.
std::optional<DType> gguf_type_of_bits(int bits);
// `type`, or what takes its place in rows of `cols` columns that are no whole blocks: a type with blocks of 32 for one
// with blocks of 256, F16 where nothing fits.
DType gguf_fitting_type(DType type, size_t cols);

}  // namespace nibble
