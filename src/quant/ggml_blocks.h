#pragma once
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

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

// ggml_spec() as algorithms get it: with F16 scales and the range that rounding to nearest uses there. Types whose
// scales are products of an F16 and a small integer have themselves as scale_dtype. `dtype` is a block type.
QuantSpec ggml_target_spec(DType dtype);
// The block type that holds codes of this spec in rows of `cols` columns, if its scales are such as the type has: what
// scale_dtype says, or a type of blocks of 32 with an F16 scale. A width below 4, 5 or 8 bits sits in the middle of the
// next one's range; larger groups repeat their scale. Nothing: no type does.
std::optional<DType> ggml_type_for(const QuantSpec& spec, size_t cols);

// The bytes of q's rows as blocks. ggml_type_for() its spec, or a type given by the caller that has the same codes.
// K-quants: d is the largest F16 of which all scales of a block are integer multiples in the type's range.
// import_ggml_rows() of the result gives the same codes, scales and mins; and of rows made here, the same bytes again.
// Throws Error(kUsage) naming the row when a scale or min has no such form.
std::vector<std::byte> export_ggml_rows(DType dtype, const QuantizedMatrix& q);

// `rows` rows of `cols` elements of a block type; cols is a multiple of its block, bytes holds exactly those rows.
// dequantize() of the result equals ggml's dequantization to float bit for bit.
// Throws Error(kCorrupt) on a wrong extent, or on a scale that is not finite (naming the row).
QuantizedMatrix import_ggml_rows(DType dtype, size_t rows, size_t cols, std::span<const std::byte> bytes);

}  // namespace nibble
