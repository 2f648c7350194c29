#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "core/dtype.h"

namespace nibble {

// The element type that GGUF writes as `number`; nothing for types not handled here.
std::optional<DType> find_ggml_type(uint32_t number);
// "IQ2_XXS (type 16)", or "type 77" when no such type was known when this was written. For messages.
std::string ggml_type_name(uint32_t number);
// The number for `dtype`; nothing for types that GGUF cannot hold.
std::optional<uint32_t> ggml_type_number(DType dtype);

}  // namespace nibble
