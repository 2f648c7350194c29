#include "quant/compressed_tensors.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "core/half.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

constexpr size_t kWordBits = 32;

// Words of a dense stream of `count` codes.
size_t packed_words(size_t count, int bits) {
  return ceil_div(checked_mul(count, static_cast<size_t>(bits), "packed codes in bits"), kWordBits);
}

bool has_zeros(const QuantSpec& spec) { return !spec.symmetric && !spec.mins; }

// Values of floats in the file's scale type.
void append_scales(std::span<const float> values, DType dtype, std::vector<std::byte>& out) {
  const size_t size = info(dtype).block_bytes;
  const size_t at = out.size();
  out.resize(at + values.size() * size);
  if (dtype == DType::kF32) {
    std::memcpy(out.data() + at, values.data(), values.size() * size);
    return;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = dtype == DType::kF16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    std::memcpy(out.data() + at + 2 * i, &bits, 2);
  }
}

std::vector<std::byte> scale_bytes(std::span<const float> values, DType dtype) {
  std::vector<std::byte> out;
  append_scales(values, dtype, out);
  return out;
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

// The one value that all rows of a per-tensor grid report.
template <class T>
T only_value(std::span<const T> rows) {
  if (rows.empty()) return T{};
  if (std::any_of(rows.begin(), rows.end(), [&](T value) { return value != rows[0]; }))
    throw Error(ErrorKind::kUsage, "row slices of one tensor disagree about its only scale");
  return rows[0];
}

}  // namespace

std::string_view compressed_format(const QuantSpec& spec, const ActivationSpec& activations) {
  const bool quantized_inputs = activations.mode != ActivationSpec::Mode::kNone;
  if (spec.grid == Grid::kFP8) return quantized_inputs ? "float-quantized" : "naive-quantized";
  if (spec.grid == Grid::kInt && spec.bits == 8 && quantized_inputs && !spec.mins) return "int-quantized";
  return "pack-quantized";
}

std::optional<std::string> schema_obstacle(const QuantSpec& spec, const ActivationSpec& activations, size_t cols) {
  if (spec.grid != Grid::kInt && spec.grid != Grid::kFP8) return cat(name(spec.grid), " is not a type of the schema");
  if (spec.mins) return "the schema has zero points, not stored mins";
  if (spec.bits == 1 && spec.symmetric) return "1-bit symmetric codes mean -1 and 0 in the schema, not -1 and +1";
  const size_t group = spec.group_size(cols);
  if (group != 0 && cols % group != 0) return cat("group ", group, " does not divide ", cols, " columns");
  if (activations.mode != ActivationSpec::Mode::kNone) {
    if (activations.grid == Grid::kFP8 && !activations.symmetric) return "asymmetric FP8 activations";
    if (activations.grid == Grid::kFP8 && spec.grid == Grid::kInt &&
        compressed_format(spec, activations) == "pack-quantized")
      return "packed integer weights go with integer activations";
  }
  return std::nullopt;
}

std::vector<CompressedSlot> compressed_slots(const QuantSpec& spec, const ActivationSpec& activations, size_t rows,
                                             size_t cols, bool grouped_columns) {
  const bool packed = compressed_format(spec, activations) == "pack-quantized";
  if (grouped_columns && !packed)
    throw Error(ErrorKind::kUnsupported,
                cat("columns with groups of their own need packed codes, not ", compressed_format(spec, activations)));
  const Shape scale_shape = spec.per_tensor ? Shape{1} : Shape{rows, spec.groups(cols)};
  std::vector<CompressedSlot> slots;
  if (packed)
    slots.push_back({"weight_packed", DType::kI32, {rows, packed_words(cols, spec.bits)}});
  else
    slots.push_back({"weight", spec.grid == Grid::kFP8 ? DType::kF8E4M3 : DType::kI8, {rows, cols}});
  if (packed) slots.push_back({"weight_shape", DType::kI64, {2}});
  if (grouped_columns) slots.push_back({"weight_g_idx", DType::kI32, {cols}});
  if (has_zeros(spec) && packed && !spec.per_tensor)
    slots.push_back({"weight_zero_point", DType::kI32, {packed_words(rows, spec.bits), spec.groups(cols)}});
  slots.push_back({"weight_scale", spec.scale_dtype, scale_shape});
  if (activations.mode == ActivationSpec::Mode::kStatic) {
    slots.push_back({"input_scale", spec.scale_dtype, {1}});
    if (!activations.symmetric) slots.push_back({"input_zero_point", DType::kI8, {1}});
  }
  if (spec.mins) slots.push_back({"weight_min", spec.scale_dtype, scale_shape});
  if (has_zeros(spec) && !(packed && !spec.per_tensor)) slots.push_back({"weight_zero_point", DType::kI8, scale_shape});
  return slots;
}

size_t compressed_bytes(const QuantSpec& spec, const ActivationSpec& activations, size_t rows, size_t cols,
                        bool grouped_columns) {
  size_t total = 0;
  for (const CompressedSlot& slot : compressed_slots(spec, activations, rows, cols, grouped_columns))
    total = checked_add(total, byte_size(slot.dtype, element_count(slot.shape)), "size of a weight");
  return total;
}

CompressedEncoder::CompressedEncoder(const QuantSpec& spec, const ActivationSpec& activations, size_t rows, size_t cols,
                                     bool grouped_columns)
    : spec_(spec),
      activations_(activations),
      rows_(rows),
      cols_(cols),
      packed_(compressed_format(spec, activations) == "pack-quantized"),
      slots_(compressed_slots(spec, activations, rows, cols, grouped_columns)) {
  spec_.validate();
  if (has_zeros(spec_)) zeros_.resize(rows * spec_.groups(cols));
  if (spec_.per_tensor) row_scales_.resize(rows);
  if (spec_.per_tensor && spec_.mins) row_mins_.resize(rows);
}

size_t CompressedEncoder::slot(std::string_view suffix) const {
  const auto found = std::find_if(slots_.begin(), slots_.end(), [&](const auto& s) { return s.suffix == suffix; });
  return static_cast<size_t>(found - slots_.begin());
}

void CompressedEncoder::write(size_t first, const QuantizedMatrix& slice, const Sink& sink) {
  if (!(slice.spec == spec_) || slice.cols != cols_ || first > rows_ || slice.rows > rows_ - first)
    throw Error(ErrorKind::kUsage,
                cat("rows ", first, " to ", first + slice.rows, " of ", describe(slice.spec), " with ", slice.cols,
                    " columns do not fit [", rows_, ", ", cols_, "] of ", describe(spec_)));
  if ((slot("weight_g_idx") < slots_.size()) != !slice.group_of.empty())
    throw Error(ErrorKind::kUsage, "columns have groups of their own in some row slices only");
  if (slice.rows == 0) return;

  if (packed_) {
    const size_t row_bytes = 4 * packed_words(cols_, spec_.bits);
    std::vector<std::byte> rows(slice.rows * row_bytes);
    for (size_t r = 0; r < slice.rows; ++r)
      pack_codes(slice.codes.data() + r * cols_, spec_.bits, cols_,
                 reinterpret_cast<uint8_t*>(rows.data() + r * row_bytes));
    if (!rows.empty()) sink(0, first * row_bytes, rows);
  } else if (spec_.grid == Grid::kFP8) {
    if (!slice.codes.empty()) sink(0, first * cols_, bytes_of(slice.codes));
  } else {
    std::vector<uint8_t> signed_codes(slice.codes);
    for (uint8_t& code : signed_codes) code = static_cast<uint8_t>(code - spec_.symmetric_zero());
    if (!signed_codes.empty()) sink(0, first * cols_, bytes_of(signed_codes));
  }

  const size_t groups = spec_.groups(cols_);
  const auto at = [](size_t offset) { return static_cast<ptrdiff_t>(offset); };
  if (spec_.per_tensor) {
    std::fill_n(row_scales_.begin() + at(first), slice.rows, slice.scales.at(0));
    if (spec_.mins) std::fill_n(row_mins_.begin() + at(first), slice.rows, slice.mins.at(0));
    if (has_zeros(spec_)) std::fill_n(zeros_.begin() + at(first), slice.rows, slice.zeros.at(0));
  } else {
    const size_t size = info(spec_.scale_dtype).block_bytes;
    sink(slot("weight_scale"), first * groups * size, scale_bytes(slice.scales, spec_.scale_dtype));
    if (spec_.mins) sink(slot("weight_min"), first * groups * size, scale_bytes(slice.mins, spec_.scale_dtype));
    if (has_zeros(spec_)) std::copy(slice.zeros.begin(), slice.zeros.end(), zeros_.begin() + at(first * groups));
  }
  if (first == 0) group_of_ = slice.group_of;
}

void CompressedEncoder::finish(const Sink& sink) {
  const size_t groups = spec_.groups(cols_);
  if (packed_) {
    const uint64_t shape[2] = {rows_, cols_};
    sink(slot("weight_shape"), 0, std::as_bytes(std::span(shape)));
  }
  if (activations_.mode == ActivationSpec::Mode::kStatic) {
    sink(slot("input_scale"), 0, scale_bytes(std::span(&activations_.scale, 1), spec_.scale_dtype));
    const auto zero = static_cast<uint8_t>(activations_.zero - (1 << (activations_.bits - 1)));
    if (!activations_.symmetric) sink(slot("input_zero_point"), 0, std::as_bytes(std::span(&zero, 1)));
  }
  if (!group_of_.empty()) sink(slot("weight_g_idx"), 0, bytes_of(group_of_));
  if (spec_.per_tensor) {
    const float scale = only_value(std::span<const float>(row_scales_));
    sink(slot("weight_scale"), 0, scale_bytes(std::span(&scale, 1), spec_.scale_dtype));
    if (spec_.mins) {
      const float min = only_value(std::span<const float>(row_mins_));
      sink(slot("weight_min"), 0, scale_bytes(std::span(&min, 1), spec_.scale_dtype));
    }
    if (has_zeros(spec_)) zeros_.assign(1, only_value(std::span<const uint8_t>(zeros_)));
  }
  if (!has_zeros(spec_)) return;

  const size_t zero_slot = slot("weight_zero_point");
  if (packed_ && !spec_.per_tensor) {
    // Packed along the rows: the words of column g are the stream of that column's zero points.
    const size_t words = packed_words(rows_, spec_.bits);
    std::vector<uint32_t> stream(words), packed(words * groups);
    std::vector<uint8_t> column(rows_);
    for (size_t g = 0; g < groups; ++g) {
      for (size_t r = 0; r < rows_; ++r) column[r] = zeros_[r * groups + g];
      std::fill(stream.begin(), stream.end(), 0u);
      pack_codes(column.data(), spec_.bits, rows_, reinterpret_cast<uint8_t*>(stream.data()));
      for (size_t i = 0; i < words; ++i) packed[i * groups + g] = stream[i];
    }
    if (!packed.empty()) sink(zero_slot, 0, bytes_of(packed));
  } else {
    std::vector<uint8_t> signed_zeros(zeros_);
    for (uint8_t& zero : signed_zeros) zero = static_cast<uint8_t>(zero - spec_.symmetric_zero());
    if (!signed_zeros.empty()) sink(zero_slot, 0, bytes_of(signed_zeros));
  }
}

}  // namespace nibble
