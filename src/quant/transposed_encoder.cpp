#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "core/half.h"
#include "quant/packed_matrix.h"
#include "quant/transposed_weight.h"

namespace nibble {
namespace {

constexpr size_t kWordBits = 32, kNibbles = 8;
constexpr std::array<size_t, kNibbles> kAwqOrder = {0, 2, 4, 6, 1, 3, 5, 7};
// GPTQModel's CPU path pads other sizes, its GPU kernels and vLLM's refuse them.
constexpr size_t kGptqMultiple = 32;
constexpr size_t kSmallestGroup = 16, kLargestGptqGroup = 1024, kLargestAwqGroup = 128;

bool is_awq(TransposedLayout layout) { return layout == TransposedLayout::kAwq; }

// The largest power of two from kSmallestGroup to `largest` that divides the row; 0 when there is none.
size_t nearest_group(size_t group, size_t cols, size_t largest) {
  size_t best = 0;
  for (size_t size = kSmallestGroup; size <= std::min(largest, std::max(group, kSmallestGroup)); size *= 2)
    if (cols % size == 0) best = size;
  return best;
}

std::optional<std::string> bits_obstacle(TransposedLayout layout, const QuantSpec& spec) {
  if (is_awq(layout)) {
    if (spec.bits == 4) return std::nullopt;
    return cat(spec.bits, " bits; AWQ holds 4: try --bits 4",
               spec.bits == 8 || spec.bits < 4 ? ", or --format gptq" : "");
  }
  switch (spec.bits) {
    case 2:
    case 3:
    case 4:
    case 8:
      return std::nullopt;
    default:
      return cat(spec.bits, " bits; GPTQ holds 2, 3, 4 and 8: try --bits ",
                 spec.bits == 1  ? 2
                 : spec.bits < 6 ? 4
                                 : 8,
                 ", or --format hf");
  }
}

std::optional<std::string> group_obstacle(TransposedLayout layout, const QuantSpec& spec, size_t cols) {
  const size_t largest = is_awq(layout) ? kLargestAwqGroup : kLargestGptqGroup;
  const std::string_view title = is_awq(layout) ? "AWQ" : "GPTQ";
  const size_t group = spec.group;
  if (group == QuantSpec::kWholeRow) return std::nullopt;
  const bool power = (group & (group - 1)) == 0;
  if (power && group >= kSmallestGroup && group <= largest && cols % group == 0) return std::nullopt;
  const size_t nearest = nearest_group(group, cols, largest);
  const std::string advice =
      nearest != 0 ? cat("try --group-size ", nearest) : "try --group-size 0 (one group per row)";
  if (cols % group != 0) return cat("group ", group, " does not divide ", cols, " columns; ", advice);
  return cat("group ", group, "; readers of ", title, " take powers of two from ", kSmallestGroup, " to ", largest,
             ", or the whole row: ", advice);
}

}  // namespace

std::optional<std::string> transposed_obstacle(TransposedLayout layout, const QuantSpec& spec,
                                               const ActivationSpec& activations, size_t rows, size_t cols,
                                               bool grouped_columns) {
  const std::string_view title = is_awq(layout) ? "AWQ" : "GPTQ";
  if (spec.grid != Grid::kInt)
    return cat(title, " holds integers, not ", name(spec.grid), ": try --grid int, or --format hf");
  if (activations.mode != ActivationSpec::Mode::kNone)
    return cat(title,
               " quantizes weights only, not a linear's inputs: try a scheme without, such as W4A16, or --format hf");
  if (auto obstacle = bits_obstacle(layout, spec)) return obstacle;
  if (spec.mins) return cat(title, " has integer zero points, not stored minima: try --format hf");
  if (spec.per_tensor) return cat(title, " has a scale for each row at least: try --granularity channel");
  if (auto obstacle = group_obstacle(layout, spec, cols)) return obstacle;
  const size_t row_multiple = is_awq(layout) ? kNibbles : kGptqMultiple,
               col_multiple = is_awq(layout) ? 1 : kGptqMultiple;
  if (rows % row_multiple != 0 || rows == 0)
    return cat(title, " needs a multiple of ", row_multiple, " output rows, not ", rows,
               ": --skip it, or try --format hf");
  if (cols % col_multiple != 0 || cols == 0)
    return cat(title, " needs a multiple of ", col_multiple, " input columns, not ", cols,
               ": --skip it, or try --format hf");
  if (is_awq(layout) && grouped_columns)
    return std::string("AWQ has no order of columns (act-order): try --format gptq");
  if (layout == TransposedLayout::kGptqV1 && !spec.symmetric && spec.bits < 4)
    return cat(spec.bits,
               " bits with zero points; they are often 0 then, which version 1 of GPTQ cannot say: try --format "
               "gptq:v2, or --sym");
  return std::nullopt;
}

std::vector<TransposedSlot> transposed_slots(TransposedLayout layout, const QuantSpec& spec, size_t rows, size_t cols) {
  const auto bits = static_cast<size_t>(spec.bits);
  const size_t groups = spec.groups(cols);
  if (is_awq(layout))
    return {{"qweight", DType::kI32, {cols, rows / kNibbles}},
            {"qzeros", DType::kI32, {groups, rows / kNibbles}},
            {"scales", spec.scale_dtype, {groups, rows}}};
  return {{"qweight", DType::kI32, {cols * bits / kWordBits, rows}},
          {"qzeros", DType::kI32, {groups, rows * bits / kWordBits}},
          {"scales", spec.scale_dtype, {groups, rows}},
          {"g_idx", DType::kI32, {cols}}};
}

TransposedEncoder::TransposedEncoder(TransposedLayout layout, const QuantSpec& spec, size_t rows, size_t cols,
                                     bool grouped_columns, size_t tile_codes)
    : layout_(layout), spec_(spec), rows_(rows), cols_(cols), groups_(spec.groups(cols)), grouped_(grouped_columns) {
  // Whole words of zero points: 32 rows for any number of bits.
  tile_rows_ = std::max<size_t>(tile_codes / std::max<size_t>(cols, 1) / kWordBits, 1) * kWordBits;
}

void TransposedEncoder::write(size_t first, const QuantizedMatrix& slice, const Sink& sink) {
  if (!(slice.spec == spec_) || slice.cols != cols_ || first > rows_ || slice.rows > rows_ - first)
    throw Error(ErrorKind::kUsage,
                cat("rows ", first, " to ", first + slice.rows, " of ", describe(slice.spec), " with ", slice.cols,
                    " columns do not fit [", rows_, ", ", cols_, "] of ", describe(spec_)));
  if (grouped_ != !slice.group_of.empty())
    throw Error(ErrorKind::kUsage, "columns have groups of their own in some row slices only");
  const auto at = [](size_t offset) { return static_cast<ptrdiff_t>(offset); };
  for (size_t done = 0; done < slice.rows;) {
    const size_t row = first + done, index = row / tile_rows_, begin = index * tile_rows_;
    const size_t count = std::min(slice.rows - done, begin + tile_rows_ - row);
    Tile* tile = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (grouped_ && group_of_.empty()) group_of_ = slice.group_of;
      auto& place = tiles_[index];
      if (!place) {
        const size_t rows = std::min(tile_rows_, rows_ - begin);
        place = std::make_unique<Tile>(Tile{begin, rows, rows, {}, {}, {}});
        place->codes.resize(rows * cols_);
        place->zeros.resize(rows * groups_, static_cast<uint8_t>(spec_.symmetric_zero()));
        place->scales.resize(rows * groups_);
      }
      tile = place.get();
    }
    if (grouped_ && group_of_ != slice.group_of)
      throw Error(ErrorKind::kUsage, "row slices of one tensor disagree about the groups of its columns");
    std::copy_n(slice.codes.begin() + at(done * cols_), count * cols_, tile->codes.begin() + at((row - begin) * cols_));
    std::copy_n(slice.scales.begin() + at(done * groups_), count * groups_,
                tile->scales.begin() + at((row - begin) * groups_));
    if (!spec_.symmetric)
      std::copy_n(slice.zeros.begin() + at(done * groups_), count * groups_,
                  tile->zeros.begin() + at((row - begin) * groups_));
    std::unique_ptr<Tile> full;
    {
      const std::lock_guard lock(mutex_);
      tile->missing -= count;
      if (tile->missing == 0) {
        full = std::move(tiles_[index]);
        tiles_.erase(index);
      }
    }
    if (full) flush(*full, sink);
    done += count;
  }
}

void TransposedEncoder::avoid_zero_points_of_0(Tile& tile) const {
  const auto top = static_cast<uint8_t>((1 << spec_.bits) - 1);
  const size_t size = spec_.group_size(cols_);
  const auto each_code = [&](size_t row, size_t group, const auto& body) {
    uint8_t* const codes = tile.codes.data() + row * cols_;
    if (group_of_.empty()) {
      for (size_t c = group * size; c < (group + 1) * size; ++c) body(codes[c]);
    } else {
      for (size_t c = 0; c < cols_; ++c)
        if (group_of_[c] == group) body(codes[c]);
    }
  };
  for (size_t i = 0; i < tile.zeros.size(); ++i) {
    if (tile.zeros[i] != 0) continue;
    const size_t row = i / groups_, group = i % groups_;
    uint8_t largest = 0;
    each_code(row, group, [&](uint8_t code) { largest = std::max(largest, code); });
    if (largest == top)
      throw Error(
          ErrorKind::kUsage,
          cat("row ", tile.first + row, ", group ", group,
              " has a zero point of 0, which version 1 of GPTQ cannot say: run again with --format gptq:v2 (and "
              "--resume after a calibrated run), or with --sym"));
    each_code(row, group, [](uint8_t& code) { ++code; });
    tile.zeros[i] = 1;
  }
}

namespace {

// Words that hold a [rows, cols] matrix of codes: in column-major order of the words, [words of a row, rows].
std::vector<uint32_t> gptq_words(const std::vector<uint8_t>& codes, size_t rows, size_t cols, int bits) {
  const size_t words = cols * static_cast<size_t>(bits) / kWordBits;
  std::vector<uint32_t> out(words * rows), row(words);
  // A line of the output stays in the cache while a few rows fill it.
  for (size_t r = 0; r < rows; ++r) {
    pack_codes(codes.data() + r * cols, bits, cols, reinterpret_cast<uint8_t*>(row.data()));
    for (size_t w = 0; w < words; ++w) out[w * rows + r] = row[w];
  }
  return out;
}

// Eight rows to a word: [cols, rows / 8].
std::vector<uint32_t> awq_words(const std::vector<uint8_t>& codes, size_t rows, size_t cols) {
  const size_t words = rows / kNibbles;
  std::vector<uint32_t> out(words * cols);
  for (size_t w = 0; w < words; ++w)
    for (size_t i = 0; i < kNibbles; ++i) {
      const uint8_t* const row = codes.data() + (kNibbles * w + kAwqOrder[i]) * cols;
      for (size_t c = 0; c < cols; ++c) out[c * words + w] |= uint32_t{row[c]} << (4 * i);
    }
  return out;
}

// [rows, groups] turned into [groups, rows].
template <class T>
std::vector<T> transposed(const std::vector<T>& values, size_t rows, size_t groups) {
  std::vector<T> out(values.size());
  for (size_t r = 0; r < rows; ++r)
    for (size_t g = 0; g < groups; ++g) out[g * rows + r] = values[r * groups + g];
  return out;
}

std::vector<std::byte> scale_bytes(const std::vector<float>& scales, DType dtype) {
  const size_t size = info(dtype).block_bytes;
  std::vector<std::byte> out(scales.size() * size);
  for (size_t i = 0; i < scales.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(out.data() + i * size, &scales[i], size);
    } else {
      const uint16_t bits = dtype == DType::kF16 ? f32_to_f16(scales[i]) : f32_to_bf16(scales[i]);
      std::memcpy(out.data() + i * size, &bits, size);
    }
  }
  return out;
}

}  // namespace

void TransposedEncoder::flush(Tile& tile, const Sink& sink) const {
  if (layout_ == TransposedLayout::kGptqV1 && !spec_.symmetric) avoid_zero_points_of_0(tile);
  const size_t rows = tile.rows;
  // The tile's part of each of `lines` lines; a whole line has `line` bytes.
  const auto put = [&](size_t slot, size_t lines, size_t line, size_t offset, std::span<const std::byte> bytes) {
    const size_t part = bytes.size() / lines;
    if (part == line) return sink(slot, 0, bytes);
    for (size_t i = 0; i < lines; ++i) sink(slot, i * line + offset, bytes.subspan(i * part, part));
  };
  const size_t scale = info(spec_.scale_dtype).block_bytes;
  const std::vector<float> scales = transposed(tile.scales, rows, groups_);
  put(2, groups_, rows_ * scale, tile.first * scale, scale_bytes(scales, spec_.scale_dtype));
  if (is_awq(layout_)) {
    const size_t word_bytes = 4, line = rows_ / kNibbles * word_bytes, offset = tile.first / kNibbles * word_bytes;
    const std::vector<uint32_t> codes = awq_words(tile.codes, rows, cols_);
    put(0, cols_, line, offset, std::as_bytes(std::span(codes)));
    const std::vector<uint32_t> zeros = awq_words(tile.zeros, rows, groups_);
    put(1, groups_, line, offset, std::as_bytes(std::span(zeros)));
    return;
  }
  const auto bits = static_cast<size_t>(spec_.bits);
  const std::vector<uint32_t> words = gptq_words(tile.codes, rows, cols_, spec_.bits);
  put(0, cols_ * bits / kWordBits, rows_ * 4, tile.first * 4, std::as_bytes(std::span(words)));
  std::vector<uint8_t> zeros = transposed(tile.zeros, rows, groups_);
  if (layout_ == TransposedLayout::kGptqV1)
    for (uint8_t& zero : zeros) --zero;
  std::vector<uint8_t> packed(zeros.size() * bits / 8);
  for (size_t g = 0; g < groups_; ++g)
    pack_codes(zeros.data() + g * rows, spec_.bits, rows, packed.data() + g * rows * bits / 8);
  put(1, groups_, rows_ * bits / 8, tile.first * bits / 8, std::as_bytes(std::span(packed)));
}

void TransposedEncoder::finish(const Sink& sink) {
  if (is_awq(layout_)) return;
  std::vector<uint32_t> groups = group_of_;
  const size_t size = spec_.group_size(cols_);
  if (groups.empty())
    for (size_t c = 0; c < cols_; ++c) groups.push_back(static_cast<uint32_t>(c / size));
  sink(3, 0, std::as_bytes(std::span(groups)));
}

}  // namespace nibble
