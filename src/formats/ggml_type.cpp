#include "formats/ggml_type.h"

#include <string_view>

#include "core/error.h"

namespace nibble {
namespace {

struct GgmlType {
  uint32_t number;
  DType dtype;
};

// Numbers of ggml's enum ggml_type.
constexpr GgmlType kHandled[] = {
    {0, DType::kF32},   {1, DType::kF16},   {2, DType::kQ4_0},    {3, DType::kQ4_1},    {6, DType::kQ5_0},
    {7, DType::kQ5_1},  {8, DType::kQ8_0},  {10, DType::kQ2_K},   {11, DType::kQ3_K},   {12, DType::kQ4_K},
    {13, DType::kQ5_K}, {14, DType::kQ6_K}, {20, DType::kIQ4_NL}, {23, DType::kIQ4_XS}, {24, DType::kI8},
    {25, DType::kI16},  {26, DType::kI32},  {27, DType::kI64},    {28, DType::kF64},    {30, DType::kBF16},
};

struct NamedType {
  uint32_t number;
  std::string_view name;
};

// Known, but not handled: named so that a message says what the file needs.
constexpr NamedType kOthers[] = {
    {4, "Q4_2"},        {5, "Q4_3"},      {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"},    {17, "IQ2_XS"},
    {18, "IQ3_XXS"},    {19, "IQ1_S"},    {21, "IQ3_S"}, {22, "IQ2_S"}, {29, "IQ1_M"},      {31, "Q4_0_4_4"},
    {32, "Q4_0_4_8"},   {33, "Q4_0_8_8"}, {34, "TQ1_0"}, {35, "TQ2_0"}, {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"},
    {38, "IQ4_NL_8_8"}, {39, "MXFP4"},    {40, "NVFP4"},
};

}  // namespace

std::optional<DType> find_ggml_type(uint32_t number) {
  for (const GgmlType& type : kHandled)
    if (type.number == number) return type.dtype;
  return std::nullopt;
}

std::string ggml_type_name(uint32_t number) {
  if (const auto dtype = find_ggml_type(number)) return cat(info(*dtype).name, " (type ", number, ")");
  for (const NamedType& type : kOthers)
    if (type.number == number) return cat(type.name, " (type ", number, ")");
  return cat("type ", number);
}

std::optional<uint32_t> ggml_type_number(DType dtype) {
  for (const GgmlType& type : kHandled)
    if (type.dtype == dtype) return type.number;
  return std::nullopt;
}

}  // namespace nibble
