#include "quant/stored_parts.h"

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/half.h"

namespace nibble {

void StoredParts::corrupt(std::string_view suffix, const std::string& message) const {
  throw Error(ErrorKind::kCorrupt, cat(module, suffix, ": ", message));
}

const TensorView& StoredParts::get(std::string_view suffix) const {
  const TensorView* view = find(suffix);
  if (view == nullptr) corrupt(suffix, "is missing, though config.json's quantization_config asks for it");
  return *view;
}

const TensorView& StoredParts::get(std::string_view suffix, DType dtype, const Shape& shape) const {
  const TensorView& view = get(suffix);
  if (view.dtype != dtype) corrupt(suffix, cat("has dtype ", info(view.dtype).name, ", expected ", info(dtype).name));
  if (view.shape != shape) corrupt(suffix, cat("has shape ", describe(view.shape), ", expected ", describe(shape)));
  const size_t bytes = byte_size(dtype, element_count(shape));
  if (view.bytes.size() != bytes) corrupt(suffix, cat("has ", view.bytes.size(), " bytes, expected ", bytes));
  return view;
}

std::vector<float> StoredParts::floats(std::string_view suffix) const {
  const TensorView& view = get(suffix);
  const bool f32 = view.dtype == DType::kF32;
  if (!f32 && view.dtype != DType::kF16 && view.dtype != DType::kBF16)
    corrupt(suffix, cat("has dtype ", info(view.dtype).name, ", expected F32, F16 or BF16"));
  const size_t count = element_count(view.shape);
  if (view.bytes.size() != byte_size(view.dtype, count))
    corrupt(suffix, cat("has ", view.bytes.size(), " bytes, expected ", byte_size(view.dtype, count)));
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    if (f32) {
      std::memcpy(&values[i], view.bytes.data() + 4 * i, 4);
    } else {
      uint16_t half;
      std::memcpy(&half, view.bytes.data() + 2 * i, 2);
      values[i] = view.dtype == DType::kF16 ? f16_to_f32(half) : bf16_to_f32(half);
    }
    if (!std::isfinite(values[i])) corrupt(suffix, cat("value ", i, " is not a finite number; the file is damaged"));
  }
  return values;
}

}  // namespace nibble
