#include "quant/bitsandbytes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "core/json.h"
#include "quant/packed_rows.h"

namespace nibble {
namespace {

constexpr std::string_view kStateNF4 = ".weight.quant_state.bitsandbytes__nf4",
                           kStateFP4 = ".weight.quant_state.bitsandbytes__fp4";

DType parse_dtype(const std::string& text) {
  if (text == "bfloat16") return DType::kBF16;
  if (text == "float16") return DType::kF16;
  return DType::kF32;
}

size_t expect_block(const StoredParts& parts, std::string_view suffix, size_t block) {
  if (block == 0 || block > (size_t{1} << 20)) parts.corrupt(suffix, cat("says blocks of ", block, " values"));
  return block;
}

}  // namespace

bool Bitsandbytes4::present(const StoredParts& parts) { return parts.find(".weight.quant_map") != nullptr; }

Bitsandbytes4 Bitsandbytes4::open(const StoredParts& parts) {
  Bitsandbytes4 w;
  w.nf4_ = parts.find(kStateNF4) != nullptr;
  const std::string_view state_name = w.nf4_ ? kStateNF4 : kStateFP4;
  const TensorView& state_view = parts.get(state_name);
  const Json state =
      with_context([&] { return cat(parts.module, state_name); },
                   [&] {
                     Json json = parse_json(
                         {reinterpret_cast<const char*>(state_view.bytes.data()), state_view.bytes.size()}, "its text");
                     if (!json.is_object()) throw Error(ErrorKind::kCorrupt, "should be a JSON object");
                     return json;
                   });
  with_context(
      [&] { return cat(parts.module, state_name); },
      [&] {
        const Json& shape = get(state, "shape");
        if (!shape.is_array() || shape.size() != 2 || !shape[0].is_number_unsigned() || !shape[1].is_number_unsigned())
          throw Error(ErrorKind::kCorrupt, "'shape' should be the two extents of a matrix");
        w.rows_ = shape[0].get<size_t>();
        w.cols_ = shape[1].get<size_t>();
        w.block_ = get_size(state, "blocksize");
        w.dtype_ = parse_dtype(get_string(state, "dtype"));
      });
  if (w.rows_ == 0 || w.cols_ == 0) parts.corrupt(state_name, "says an empty shape");
  expect_block(parts, state_name, w.block_);
  const size_t count = checked_mul(w.rows_, w.cols_, "a weight's elements");

  w.codes_ = parts.get(".weight");
  if (w.codes_.bytes.size() != ceil_div(count, 2))
    parts.corrupt(".weight", cat("has ", w.codes_.bytes.size(), " bytes, its quant_state says ", w.rows_, " x ",
                                 w.cols_, " elements of 4 bits"));
  w.levels_ = parts.floats(".weight.quant_map");
  if (w.levels_.size() != 16) parts.corrupt(".weight.quant_map", cat("has ", w.levels_.size(), " values, expected 16"));
  const size_t blocks = ceil_div(count, w.block_);
  const bool nested = parts.find(".weight.nested_absmax") != nullptr;
  w.scales_ = parts.get(".weight.absmax", nested ? DType::kU8 : DType::kF32, {blocks});
  w.bytes_ = w.codes_.bytes.size() + state_view.bytes.size() + 4 * w.levels_.size() + w.scales_.bytes.size();
  if (!nested) {
    parts.floats(".weight.absmax");  // all finite
    return w;
  }
  w.nested_scales_ = parts.floats(".weight.nested_absmax");
  w.nested_levels_ = parts.floats(".weight.nested_quant_map");
  if (w.nested_levels_.size() != 256)
    parts.corrupt(".weight.nested_quant_map", cat("has ", w.nested_levels_.size(), " values, expected 256"));
  with_context([&] { return cat(parts.module, state_name); },
               [&] {
                 w.nested_block_ = get_size(state, "nested_blocksize");
                 w.nested_offset_ = static_cast<float>(get_number(state, "nested_offset"));
               });
  expect_block(parts, state_name, w.nested_block_);
  if (!std::isfinite(w.nested_offset_)) parts.corrupt(state_name, "'nested_offset' is not a finite number");
  if (w.nested_scales_.size() != ceil_div(blocks, w.nested_block_))
    parts.corrupt(".weight.nested_absmax",
                  cat("has ", w.nested_scales_.size(), " values, expected ", ceil_div(blocks, w.nested_block_)));
  w.bytes_ += 4 * (w.nested_scales_.size() + w.nested_levels_.size());
  return w;
}

float Bitsandbytes4::scale(size_t index) const {
  if (nested_levels_.empty()) {
    float value;
    std::memcpy(&value, scales_.bytes.data() + 4 * index, sizeof value);
    return value;
  }
  const float level = nested_levels_[static_cast<uint8_t>(scales_.bytes[index])];
  return level * nested_scales_[index / nested_block_] + nested_offset_;
}

bool Bitsandbytes4::canonical() const {
  const auto levels = grid_levels(spec().grid);
  return cols_ % block_ == 0 && std::equal(levels.begin(), levels.end(), levels_.begin(), levels_.end());
}

void Bitsandbytes4::read_rows(size_t begin, size_t end, float* out) const {
  for (size_t i = begin * cols_; i < end * cols_;) {
    const size_t stop = std::min(end * cols_, (i / block_ + 1) * block_);
    const float factor = scale(i / block_);
    for (; i < stop; ++i) *out++ = levels_[code(i)] * factor;
  }
}

QuantSpec Bitsandbytes4::spec() const {
  return {.bits = 4, .group = block_, .grid = nf4_ ? Grid::kNF4 : Grid::kFP4Bnb};
}

QuantizedMatrix Bitsandbytes4::read_codes(size_t begin, size_t end) const {
  QuantizedMatrix q{.spec = spec(), .rows = end - begin, .cols = cols_};
  q.codes.resize(q.rows * cols_);
  for (size_t i = 0; i < q.codes.size(); ++i) q.codes[i] = code(begin * cols_ + i);
  q.scales.resize(q.rows * q.groups());
  for (size_t i = 0; i < q.scales.size(); ++i) q.scales[i] = scale(begin * q.groups() + i);
  return q;
}

PackedMatrix Bitsandbytes4::packed() const { return pack_rows(*this); }

std::span<const std::byte> Bitsandbytes4::code_bytes(size_t begin, size_t end) const {
  return codes_.bytes.subspan(begin * cols_ / 2, ceil_div(end * cols_, 2) - begin * cols_ / 2);
}

bool Bitsandbytes8::present(const StoredParts& parts) {
  const TensorView* weight = parts.find(".weight");
  return parts.find(".SCB") != nullptr && weight != nullptr && weight->dtype == DType::kI8;
}

Bitsandbytes8 Bitsandbytes8::open(const StoredParts& parts) {
  Bitsandbytes8 w;
  w.codes_ = parts.get(".weight");
  if (w.codes_.shape.size() != 2 || w.codes_.shape[0] == 0 || w.codes_.shape[1] == 0)
    parts.corrupt(".weight", cat("has shape ", describe(w.codes_.shape), ", expected a matrix"));
  parts.get(".weight", DType::kI8, w.codes_.shape);
  if (const TensorView* format = parts.find(".weight_format"))
    if (format->bytes.size() != 1 || format->bytes[0] != std::byte{0})
      throw Error(ErrorKind::kUnsupported, cat(parts.module,
                                               ".weight_format: a layout of a certain GPU; save it again "
                                               "with a current bitsandbytes"));
  parts.get(".SCB", DType::kF32, {w.rows()});
  w.scales_ = parts.floats(".SCB");
  for (float& scale : w.scales_) scale *= 1.0f / 127.0f;
  return w;
}

QuantizedMatrix Bitsandbytes8::read_codes(size_t begin, size_t end) const {
  QuantizedMatrix q{.spec = spec(), .rows = end - begin, .cols = cols()};
  const auto bytes = code_bytes(begin, end);
  q.codes.resize(bytes.size());
  for (size_t i = 0; i < bytes.size(); ++i) q.codes[i] = static_cast<uint8_t>(static_cast<unsigned>(bytes[i]) ^ 0x80u);
  q.scales.assign(scales_.begin() + static_cast<std::ptrdiff_t>(begin),
                  scales_.begin() + static_cast<std::ptrdiff_t>(end));
  return q;
}

PackedMatrix Bitsandbytes8::packed() const { return pack_rows(*this); }

std::span<const std::byte> Bitsandbytes8::code_bytes(size_t begin, size_t end) const {
  return codes_.bytes.subspan(begin * cols(), (end - begin) * cols());
}

}  // namespace nibble
