#include "quant/transposed_weight.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "core/half.h"
#include "quant/packed_matrix.h"

namespace nibble {
namespace {

constexpr size_t kWordBits = 32, kNibbles = 8;
// Where nibble i of a word of AWQ's goes among its eight rows.
constexpr std::array<size_t, kNibbles> kAwqOrder = {0, 2, 4, 6, 1, 3, 5, 7};

[[noreturn]] void corrupt(std::string_view module, std::string_view suffix, const std::string& message) {
  throw Error(ErrorKind::kCorrupt, cat(module, ".", suffix, ": ", message));
}

uint32_t load_word(const TensorView& view, size_t index) {
  uint32_t value = 0;
  std::memcpy(&value, view.bytes.data() + index * sizeof value, sizeof value);
  return value;
}

float load_float(const TensorView& view, size_t index) {
  if (view.dtype == DType::kF32) {
    float value = 0;
    std::memcpy(&value, view.bytes.data() + index * sizeof value, sizeof value);
    return value;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, view.bytes.data() + index * sizeof bits, sizeof bits);
  return view.dtype == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

// One tensor of a module, refused unless it is as it should be.
struct Reader {
  std::string_view module;
  const TransposedWeight::Find& find;

  const TensorView& get(std::string_view suffix) const {
    const TensorView* view = find(suffix);
    if (view == nullptr)
      corrupt(module, suffix, "is missing, but config.json says that this model is stored quantized");
    return *view;
  }
  const TensorView& matrix(std::string_view suffix) const {
    const TensorView& view = get(suffix);
    if (view.shape.size() != 2 || view.shape[0] == 0 || view.shape[1] == 0)
      corrupt(module, suffix, cat("has shape ", describe(view.shape), ", expected a matrix"));
    expect(suffix, view, view.shape);
    return view;
  }
  void expect(std::string_view suffix, const TensorView& view, const Shape& shape) const {
    if (view.shape != shape)
      corrupt(module, suffix,
              cat("has shape ", describe(view.shape), ", expected ", describe(shape),
                  "; config.json and the tensor disagree"));
    const size_t bytes = with_context([&] { return cat(module, ".", suffix); },
                                      [&] { return byte_size(view.dtype, element_count(shape)); });
    if (view.bytes.size() != bytes) corrupt(module, suffix, cat("has ", view.bytes.size(), " bytes, expected ", bytes));
  }
  void expect_words(std::string_view suffix, const TensorView& view, const Shape& shape) const {
    if (view.dtype != DType::kI32)
      throw Error(ErrorKind::kUnsupported, cat(module, ".", suffix, ": has dtype ", info(view.dtype).name,
                                               "; nibble reads codes packed in I32"));
    expect(suffix, view, shape);
  }
};

// Rows [begin, end) of AWQ's words, [lines, words], turned into [end - begin, lines].
void read_awq(const TensorView& view, size_t begin, size_t end, size_t lines, size_t words, uint8_t* out) {
  for (size_t w = begin / kNibbles; w * kNibbles < end; ++w)
    for (size_t i = 0; i < kNibbles; ++i) {
      const size_t row = w * kNibbles + kAwqOrder[i];
      if (row < begin || row >= end) continue;
      uint8_t* const to = out + (row - begin) * lines;
      for (size_t line = 0; line < lines; ++line)
        to[line] = static_cast<uint8_t>(load_word(view, line * words + w) >> (4 * i) & 15);
    }
}

}  // namespace

TransposedWeight TransposedWeight::open(std::string_view module, const TransposedFormat& format, const Find& find) {
  const Reader read{module, find};
  const auto bits = static_cast<size_t>(format.bits);
  const bool awq = format.layout == TransposedLayout::kAwq;
  TransposedWeight w;
  w.module_ = module;
  w.layout_ = format.layout;
  w.spec_ = {.bits = format.bits, .group = format.group, .symmetric = false};
  w.spec_.validate();
  if (format.bits < 2 || (awq && format.bits != 4))
    throw Error(ErrorKind::kUnsupported, cat(module, ".qweight: ", format.bits, "-bit codes; nibble reads ",
                                             awq ? "AWQ with 4 bits" : "GPTQ with 2 to 8 bits"));

  w.codes_ = read.matrix("qweight");
  if (awq) {
    w.cols_ = w.codes_.shape[0];
    w.rows_ = checked_mul(w.codes_.shape[1], kNibbles, "output rows");
    read.expect_words("qweight", w.codes_, {w.cols_, w.rows_ / kNibbles});
  } else {
    w.rows_ = w.codes_.shape[1];
    const size_t row_bits = checked_mul(w.codes_.shape[0], kWordBits, "row in bits");
    if (row_bits % bits != 0)
      corrupt(module, "qweight",
              cat("has ", w.codes_.shape[0], " words in a column, not a whole number of ", bits, "-bit codes"));
    w.cols_ = row_bits / bits;
    read.expect_words("qweight", w.codes_, {w.codes_.shape[0], w.rows_});
    if ((w.rows_ * bits) % kWordBits != 0)
      throw Error(ErrorKind::kUnsupported, cat(module, ".qzeros: ", w.rows_, " output rows, whose ", bits,
                                               "-bit zero points fill no whole number of words"));
  }
  w.groups_ = w.spec_.groups(w.cols_);

  w.scales_ = read.get("scales");
  if (w.scales_.dtype != DType::kF32 && w.scales_.dtype != DType::kF16 && w.scales_.dtype != DType::kBF16)
    corrupt(module, "scales", cat("has dtype ", info(w.scales_.dtype).name, ", expected F32, F16 or BF16"));
  read.expect("scales", w.scales_, {w.groups_, w.rows_});
  for (size_t i = 0, n = w.groups_ * w.rows_; i < n; ++i)
    if (!std::isfinite(load_float(w.scales_, i)))
      corrupt(module, "scales", cat("value ", i, " is not a finite number; the file is damaged"));
  w.spec_.scale_dtype = w.scales_.dtype;

  w.zeros_ = read.get("qzeros");
  read.expect_words("qzeros", w.zeros_, {w.groups_, awq ? w.rows_ / kNibbles : w.rows_ * bits / kWordBits});
  w.bytes_ = w.codes_.bytes.size() + w.scales_.bytes.size() + w.zeros_.bytes.size();

  if (const TensorView* index = awq ? nullptr : find("g_idx"); index != nullptr) {
    read.expect_words("g_idx", *index, {w.cols_});
    w.bytes_ += index->bytes.size();
    const size_t size = w.spec_.group_size(w.cols_);
    w.group_of_.resize(w.cols_);
    bool in_order = true;
    for (size_t c = 0; c < w.cols_; ++c) {
      const uint32_t group = load_word(*index, c);
      if (group >= w.groups_) corrupt(module, "g_idx", cat("column ", c, " is in group ", group, " of ", w.groups_));
      w.group_of_[c] = group;
      in_order = in_order && group == c / size;
    }
    if (in_order) w.group_of_.clear();
  }
  if (!format.symmetric) return w;
  std::vector<uint8_t> zeros;
  w.read_zeros(0, w.rows_, zeros);
  const auto half = static_cast<uint8_t>(w.spec_.symmetric_zero());
  w.spec_.symmetric = std::all_of(zeros.begin(), zeros.end(), [&](uint8_t zero) { return zero == half; });
  return w;
}

void TransposedWeight::read_zeros(size_t begin, size_t end, std::vector<uint8_t>& out) const {
  const size_t rows = end - begin;
  out.resize(rows * groups_);
  if (layout_ == TransposedLayout::kAwq) return read_awq(zeros_, begin, end, groups_, rows_ / kNibbles, out.data());
  const size_t line = rows_ * static_cast<size_t>(spec_.bits) / 8;
  const auto mask = static_cast<uint8_t>((1 << spec_.bits) - 1);
  std::vector<uint8_t> column(rows);
  for (size_t g = 0; g < groups_; ++g) {
    unpack_codes(reinterpret_cast<const uint8_t*>(zeros_.bytes.data()) + g * line, spec_.bits, begin, rows,
                 column.data());
    const int more = layout_ == TransposedLayout::kGptqV1 ? 1 : 0;
    for (size_t r = 0; r < rows; ++r) out[r * groups_ + g] = static_cast<uint8_t>((column[r] + more) & mask);
  }
}

QuantizedMatrix TransposedWeight::read_codes(size_t begin, size_t end) const {
  QuantizedMatrix q;
  q.spec = spec_;
  q.rows = end - begin;
  q.cols = cols_;
  q.group_of = group_of_;
  q.codes.resize(q.rows * cols_);
  if (layout_ == TransposedLayout::kAwq) {
    read_awq(codes_, begin, end, cols_, rows_ / kNibbles, q.codes.data());
  } else {
    const size_t words = codes_.shape[0];
    std::vector<uint32_t> stream(q.rows * words);  // of each row
    for (size_t w = 0; w < words; ++w)
      for (size_t r = 0; r < q.rows; ++r) stream[r * words + w] = load_word(codes_, w * rows_ + begin + r);
    for (size_t r = 0; r < q.rows; ++r)
      unpack_codes(reinterpret_cast<const uint8_t*>(stream.data() + r * words), spec_.bits, 0, cols_,
                   q.codes.data() + r * cols_);
  }
  q.scales.resize(q.rows * groups_);
  for (size_t g = 0; g < groups_; ++g)
    for (size_t r = 0; r < q.rows; ++r) q.scales[r * groups_ + g] = load_float(scales_, g * rows_ + begin + r);
  if (!spec_.symmetric) read_zeros(begin, end, q.zeros);
  return q;
}

}  // namespace nibble
