#pragma once
#include <cstddef>
#include <optional>
#include <span>

#include "core/dtype.h"
#include "quant/quantized_matrix.h"

// GGML's block types as flat groups. Block layouts and values: ggml-quants.c and gguf-py's quants.py.
namespace nibble {

// How a block type looks as a QuantizedMatrix; nothing for plain types. Scales are F32: those of K-quants are products.
//
//   Q4_0 Q5_0 Q8_0   4, 5, 8 bit symmetric g32          Q4_1 Q5_1   4, 5 bit with mins g32
//   Q3_K Q6_K        3, 6 bit symmetric g16             Q2_K        2 bit with mins g16
//   IQ4_NL IQ4_XS    IQ4_NL grid g32                    Q4_K Q5_K   4, 5 bit with mins g32
std::optional<QuantSpec> ggml_spec(DType dtype);

// `rows` rows of `cols` elements of a block type; cols is a multiple of its block, bytes holds exactly those rows.
// dequantize() of the result equals ggml's dequantization to float bit for bit.
// Throws Error(kCorrupt) on a wrong extent, or on a scale that is not finite (naming the row).
QuantizedMatrix import_ggml_rows(DType dtype, size_t rows, size_t cols, std::span<const std::byte> bytes);

}  // namespace nibble
