#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/checked.h"
#include "core/error.h"
#include "core/half.h"
#include "kernels/kernels.h"
#include "quant/compressed_tensors.h"

namespace nibble {
namespace {

[[noreturn]] void corrupt(std::string_view module, std::string_view suffix, const std::string& message) {
  throw Error(ErrorKind::kCorrupt, cat(module, ".", suffix, ": ", message));
}

// One tensor of a module, refused unless it is as it should be.
struct Reader {
  std::string_view module;
  const CompressedWeight::Find& find;

  const TensorView& get(std::string_view suffix) const {
    const TensorView* view = find(suffix);
    if (view == nullptr) corrupt(module, suffix, "is missing, but config.json's quantization_config asks for it");
    return *view;
  }

  void expect(std::string_view suffix, const TensorView& view, const Shape& shape) const {
    if (view.shape != shape)
      corrupt(module, suffix,
              cat("has shape ", describe(view.shape), ", expected ", describe(shape),
                  "; config.json and the tensor disagree"));
    const size_t bytes = byte_size(view.dtype, element_count(shape));
    if (view.bytes.size() != bytes) corrupt(module, suffix, cat("has ", view.bytes.size(), " bytes, expected ", bytes));
  }

  void expect(std::string_view suffix, const TensorView& view, DType dtype, const Shape& shape) const {
    if (view.dtype != dtype)
      corrupt(module, suffix, cat("has dtype ", info(view.dtype).name, ", expected ", info(dtype).name));
    expect(suffix, view, shape);
  }
};

template <class T>
T load(const TensorView& view, size_t index) {
  T value;
  std::memcpy(&value, view.bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

float load_float(const TensorView& view, size_t index) {
  if (view.dtype == DType::kF32) return load<float>(view, index);
  const auto bits = load<uint16_t>(view, index);
  return view.dtype == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

}  // namespace

bool CompressedWeight::present(const Find& find) {
  if (find("weight_packed") != nullptr) return true;
  const TensorView* weight = find("weight");
  return weight != nullptr && (weight->dtype == DType::kI8 || weight->dtype == DType::kF8E4M3);
}

ActivationSpec CompressedWeight::inputs(std::string_view module, ActivationSpec activations, const Find& find,
                                        size_t& bytes) {
  if (activations.mode != ActivationSpec::Mode::kStatic) return activations;
  const Reader read{module, find};
  const auto one = [&](std::string_view suffix) {
    TensorView view = read.get(suffix);
    if (view.shape.empty()) view.shape = {1};
    read.expect(suffix, view, {1});
    bytes += view.bytes.size();
    return view;
  };
  const TensorView scale = one("input_scale");
  if (scale.dtype != DType::kF32 && scale.dtype != DType::kF16 && scale.dtype != DType::kBF16)
    corrupt(module, "input_scale", cat("has dtype ", info(scale.dtype).name, ", expected F32, F16 or BF16"));
  activations.scale = load_float(scale, 0);
  if (!std::isfinite(activations.scale) || activations.scale <= 0)
    corrupt(module, "input_scale", cat("is ", activations.scale, ", not a positive number"));
  if (activations.symmetric) return activations;
  const TensorView zero = one("input_zero_point");
  read.expect("input_zero_point", zero, DType::kI8, {1});
  activations.zero = load<int8_t>(zero, 0) + (1 << (activations.bits - 1));
  if (activations.zero < 0 || activations.zero >= 1 << activations.bits)
    corrupt(module, "input_zero_point", cat("is outside of ", activations.bits, " bits"));
  return activations;
}

CompressedWeight CompressedWeight::open(std::string_view module, const QuantSpec& spec, const Find& find) {
  const Reader read{module, find};
  CompressedWeight w;
  w.module_ = module;
  w.spec_ = spec;
  w.spec_.scale_dtype = DType::kF32;
  w.spec_.validate();

  const TensorView* packed = find("weight_packed");
  std::string_view codes_name = packed != nullptr ? "weight_packed" : "weight";
  w.codes_ = packed != nullptr ? *packed : read.get("weight");
  if (packed != nullptr) {
    const TensorView& shape = read.get("weight_shape");
    if (shape.dtype == DType::kI32)  // written by some versions
      read.expect("weight_shape", shape, DType::kI32, {2});
    else
      read.expect("weight_shape", shape, DType::kI64, {2});
    const auto extent = [&](size_t i) {
      const int64_t value = shape.dtype == DType::kI32 ? load<int32_t>(shape, i) : load<int64_t>(shape, i);
      if (value < 1) corrupt(module, "weight_shape", cat("says extent ", value));
      return static_cast<size_t>(value);
    };
    w.rows_ = extent(0);
    w.cols_ = extent(1);
    const size_t words = ceil_div(checked_mul(w.cols_, static_cast<size_t>(spec.bits), "row in bits"), 32);
    const size_t padded = ceil_div(w.cols_, 32 / static_cast<size_t>(spec.bits));
    if (w.codes_.shape == Shape{w.rows_, padded} && padded != words)
      throw Error(
          ErrorKind::kUnsupported,
          cat(module, ".weight_packed: ", spec.bits, "-bit codes padded to whole 32-bit words, as compressed-tensors ",
              "wrote them before its dense packing; save the model again with a current version"));
    read.expect(codes_name, w.codes_, DType::kI32, {w.rows_, words});
    w.row_bytes_ = 4 * words;
    w.bytes_ += shape.bytes.size();
  } else {
    const DType dtype = spec.grid == Grid::kFP8 ? DType::kF8E4M3 : DType::kI8;
    if (spec.grid != Grid::kFP8 && spec.grid != Grid::kInt)
      corrupt(module, "weight_packed", cat("is missing; ", name(spec.grid), " codes are stored packed"));
    if (w.codes_.shape.size() != 2 || w.codes_.shape[0] == 0 || w.codes_.shape[1] == 0)
      corrupt(module, codes_name, cat("has shape ", describe(w.codes_.shape), ", expected a matrix"));
    w.rows_ = w.codes_.shape[0];
    w.cols_ = w.codes_.shape[1];
    read.expect(codes_name, w.codes_, dtype, w.codes_.shape);
    w.row_bytes_ = w.cols_;
  }
  w.bytes_ += w.codes_.bytes.size();

  const size_t groups = w.spec_.groups(w.cols_);
  const Shape scale_shape = spec.per_tensor ? Shape{1} : Shape{w.rows_, groups};
  const auto read_floats = [&](std::string_view suffix) {
    TensorView view = read.get(suffix);
    if (view.dtype != DType::kF32 && view.dtype != DType::kF16 && view.dtype != DType::kBF16)
      corrupt(module, suffix, cat("has dtype ", info(view.dtype).name, ", expected F32, F16 or BF16"));
    // Scalars and vectors stand for columns of one group.
    if (spec.per_tensor && view.shape.empty()) view.shape = {1};
    if (!spec.per_tensor && groups == 1 && view.shape == Shape{w.rows_}) view.shape = scale_shape;
    read.expect(suffix, view, scale_shape);
    for (size_t i = 0, n = element_count(view.shape); i < n; ++i)
      if (!std::isfinite(load_float(view, i)))
        corrupt(module, suffix, cat("value ", i, " is not a finite number; the file is damaged"));
    w.bytes_ += view.bytes.size();
    return view;
  };
  w.scales_ = read_floats("weight_scale");
  w.spec_.scale_dtype = w.scales_.dtype;
  if (spec.mins) w.mins_ = read_floats("weight_min");

  if (!spec.symmetric && !spec.mins) {
    TensorView zeros = read.get("weight_zero_point");
    if (packed != nullptr && !spec.per_tensor) {
      const size_t words = ceil_div(checked_mul(w.rows_, static_cast<size_t>(spec.bits), "column in bits"), 32);
      read.expect("weight_zero_point", zeros, DType::kI32, {words, groups});
    } else {
      if (spec.per_tensor && zeros.shape.empty()) zeros.shape = {1};
      read.expect("weight_zero_point", zeros, DType::kI8, scale_shape);
      const int half = w.spec_.symmetric_zero();
      for (size_t i = 0; i < zeros.bytes.size(); ++i)
        if (const int8_t zero = load<int8_t>(zeros, i); zero < -half || zero >= half)
          corrupt(module, "weight_zero_point", cat("value ", i, " is ", +zero, ", outside of ", spec.bits, " bits"));
    }
    w.bytes_ += zeros.bytes.size();
    w.zeros_ = zeros;
  }

  if (const TensorView* index = find("weight_g_idx"); index != nullptr && !spec.per_tensor && groups > 1) {
    read.expect("weight_g_idx", *index, DType::kI32, {w.cols_});
    w.bytes_ += index->bytes.size();
    const size_t size = w.spec_.group_size(w.cols_);
    w.group_of_.resize(w.cols_);
    bool in_order = true;
    for (size_t c = 0; c < w.cols_; ++c) {
      const auto group = load<int32_t>(*index, c);
      if (group < 0 || static_cast<size_t>(group) >= groups)
        corrupt(module, "weight_g_idx", cat("column ", c, " is in group ", group, " of ", groups));
      w.group_of_[c] = static_cast<uint32_t>(group);
      in_order = in_order && w.group_of_[c] == c / size;
    }
    if (in_order) w.group_of_.clear();
  }
  return w;
}

std::span<const std::byte> CompressedWeight::code_bytes(size_t begin, size_t end) const {
  return codes_.bytes.subspan(begin * row_bytes_, (end - begin) * row_bytes_);
}

void CompressedWeight::read_scales(const TensorView& view, size_t begin, size_t end, std::vector<float>& out) const {
  const size_t groups = spec_.groups(cols_);
  const size_t first = spec_.per_tensor ? 0 : begin * groups, count = spec_.per_tensor ? 1 : (end - begin) * groups;
  out.resize(count);
  for (size_t i = 0; i < count; ++i) out[i] = load_float(view, first + i);
}

void CompressedWeight::read_zeros(size_t begin, size_t end, std::vector<uint8_t>& out) const {
  const size_t groups = spec_.groups(cols_), bits = static_cast<size_t>(spec_.bits);
  const int half = spec_.symmetric_zero();
  if (zeros_->dtype == DType::kI8) {
    const size_t first = spec_.per_tensor ? 0 : begin * groups, count = spec_.per_tensor ? 1 : (end - begin) * groups;
    out.resize(count);
    for (size_t i = 0; i < count; ++i) out[i] = static_cast<uint8_t>(load<int8_t>(*zeros_, first + i) + half);
    return;
  }
  out.resize((end - begin) * groups);
  const uint32_t mask = (1u << bits) - 1;
  for (size_t r = begin; r < end; ++r) {
    const size_t word = r * bits / 32, shift = r * bits % 32;
    for (size_t g = 0; g < groups; ++g) {
      uint64_t field = load<uint32_t>(*zeros_, word * groups + g);
      if (shift + bits > 32) field |= uint64_t{load<uint32_t>(*zeros_, (word + 1) * groups + g)} << 32;
      out[(r - begin) * groups + g] = static_cast<uint8_t>((field >> shift) & mask);
    }
  }
}

QuantizedMatrix CompressedWeight::read_codes(size_t begin, size_t end) const {
  QuantizedMatrix q;
  q.spec = spec_;
  q.rows = end - begin;
  q.cols = cols_;
  q.group_of = group_of_;
  q.codes.resize(q.rows * cols_);
  const auto* rows = reinterpret_cast<const uint8_t*>(codes_.bytes.data()) + begin * row_bytes_;
  if (codes_.dtype == DType::kI32) {
    for (size_t r = 0; r < q.rows; ++r)
      unpack_codes(rows + r * row_bytes_, spec_.bits, 0, cols_, q.codes.data() + r * cols_);
  } else if (codes_.dtype == DType::kF8E4M3) {
    std::copy_n(rows, q.codes.size(), q.codes.begin());
  } else {
    const int half = spec_.symmetric_zero();
    unsigned excess = 0;
    for (size_t i = 0; i < q.codes.size(); ++i) {
      q.codes[i] = static_cast<uint8_t>(rows[i] + half);
      excess |= q.codes[i];
    }
    if ((excess >> spec_.bits) != 0)
      corrupt(module_, "weight", cat("holds codes outside of ", spec_.bits, " bits in rows ", begin, " to ", end));
  }
  read_scales(scales_, begin, end, q.scales);
  if (mins_) read_scales(*mins_, begin, end, q.mins);
  if (zeros_) read_zeros(begin, end, q.zeros);
  return q;
}

PackedMatrix CompressedWeight::packed() const {
  if (codes_.dtype == DType::kI8) {
    PackedMatrixBuilder builder(spec_, rows_, cols_);
    constexpr size_t kRows = 256;
    for (size_t r = 0; r < rows_; r += kRows) builder.add(r, read_codes(r, std::min(rows_, r + kRows)));
    return builder.finish();
  }
  PackedMatrix p;
  p.spec = spec_;
  p.rows = rows_;
  p.cols = cols_;
  p.codes = reinterpret_cast<const uint8_t*>(codes_.bytes.data());
  p.row_stride = row_bytes_;
  p.owner = codes_.owner;
  p.group_of = group_of_;
  read_scales(scales_, 0, rows_, p.scales);
  if (mins_) read_scales(*mins_, 0, rows_, p.mins);
  if (zeros_) read_zeros(0, rows_, p.zeros);
  return p;
}

}  // namespace nibble
