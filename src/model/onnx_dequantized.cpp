#include "model/onnx_dequantized.h"

#include <algorithm>

#include "core/checked.h"
#include "core/mapped_file.h"
#include "model/coded_tensor.h"
#include "model/source_floats.h"

namespace nibble {
namespace {

bool is_signed(int type) { return type == onnx_type::kInt4 || type == onnx_type::kInt8; }

// (code - zero point) * scale; all three tensors have the order of the codes, [rows, cols] or [cols, rows]. Signed
// codes are shown as unsigned ones, 2^(bits-1) more. Specification: DequantizeLinear-21 of ONNX.
class OnnxDequantized final : public StoredTensor {
 public:
  OnnxDequantized(std::shared_ptr<const OnnxModel> model, const OnnxWeight& weight, std::string name, size_t first,
                  size_t rows)
      : model_(std::move(model)), transposed_(weight.transposed), all_rows_(weight.rows), first_(first) {
    name_ = std::move(name);
    shape_ = {rows, weight.cols};
    const onnx::NodeProto& node = *weight.dequantizers.front();
    const OnnxGraphIndex index(model_->graph());
    codes_ = model_->tensor(*weight.tensor);
    scales_ = input(index, node, 1);
    const auto dtype = onnx_dtype(scales_.type);
    if (!dtype || !is_float(*dtype))
      throw Error(ErrorKind::kUnsupported, cat("scales of type ", onnx_type_name(scales_.type)));
    QuantSpec spec{.bits = static_cast<int>(onnx_bits(codes_.type)), .full_range = true, .scale_dtype = *dtype};
    spec.group = find_group(node, weight);
    groups_ = spec.groups(weight.cols);
    flip_ = static_cast<uint8_t>(is_signed(codes_.type) ? 1 << (spec.bits - 1) : 0);
    if (node.input_size() > 2 && !node.input(2).empty()) {
      zeros_ = input(index, node, 2);
      if (zeros_.type != codes_.type || zeros_.shape != scales_.shape)
        throw Error(ErrorKind::kCorrupt, "its zero points have not the type of its codes and the shape of its scales");
    }
    const bool any_zero =
        std::any_of(zeros_.bytes.begin(), zeros_.bytes.end(), [](std::byte byte) { return byte != std::byte{0}; });
    if (flip_ == 0 || any_zero) spec.symmetric = spec.full_range = false;
    spec_ = spec;
    type_name_ = cat("int", spec.bits);
    const size_t bits = rows * (weight.cols + (spec.symmetric ? 0 : groups_)) * static_cast<size_t>(spec.bits);
    bytes_ = ceil_div(bits, 8) + byte_size(*dtype, rows * groups_);
  }

  void read_rows(size_t begin, size_t end, float* out) const override { read_coded_rows(*this, begin, end, out); }

  QuantizedMatrix read_codes(size_t begin, size_t end) const override {
    QuantizedMatrix q{.spec = *spec_, .rows = end - begin, .cols = cols()};
    const size_t from = first_ + begin;
    q.codes.resize(q.rows * q.cols);
    read_integers(codes_, from, q.rows, q.cols, q.codes.data());
    q.scales = scales(from, q.rows);
    if (!q.spec.symmetric) {
      q.zeros.assign(q.rows * groups_, flip_);
      if (one_scale_ && !zeros_.bytes.empty()) {
        uint8_t zero = 0;
        unpack_codes(reinterpret_cast<const uint8_t*>(zeros_.bytes.data()), q.spec.bits, 0, 1, &zero);
        std::fill(q.zeros.begin(), q.zeros.end(), static_cast<uint8_t>(zero ^ flip_));
      } else if (!zeros_.bytes.empty()) {
        read_integers(zeros_, from, q.rows, groups_, q.zeros.data());
      }
    }
    validate(q);
    return q;
  }

  void release(size_t begin, size_t end) const noexcept override {
    if (!codes_.mapped || begin >= end) return;
    if (transposed_) {  // columns lie in every page: those go when all have been read
      if (end - begin == rows()) release_pages(codes_.bytes);
      return;
    }
    const size_t bits = cols() * static_cast<size_t>(spec_->bits);
    const size_t from = (first_ + begin) * bits / 8, to = (first_ + end) * bits / 8;
    release_pages(codes_.bytes.subspan(from, to - from));
  }

 private:
  OnnxTensor input(const OnnxGraphIndex& index, const onnx::NodeProto& node, int i) const {
    const onnx::TensorProto* tensor = i < node.input_size() ? index.initializer(node.input(i)) : nullptr;
    if (!tensor) throw Error(ErrorKind::kUnsupported, cat("input ", i, " of its DequantizeLinear is not constant"));
    return model_->tensor(*tensor);
  }

  // Columns that share a scale.
  size_t find_group(const onnx::NodeProto& node, const OnnxWeight& weight) {
    const int64_t block = int_attribute(node, "block_size", 0), axis = int_attribute(node, "axis", 1);
    if (axis < -2 || axis > 1 || block < 0)
      throw Error(ErrorKind::kCorrupt, cat("axis ", axis, " and blocks of ", block, " of a matrix"));
    const bool along_columns = (axis + 2) % 2 == (transposed_ ? 0 : 1);
    const auto expect = [&](const Shape& shape) {
      if (scales_.shape != shape)
        throw Error(ErrorKind::kCorrupt,
                    cat("it has ", element_count(scales_.shape), " scales, expected ", element_count(shape)));
    };
    if (block == 0) {
      one_scale_ = element_count(scales_.shape) == 1;
      if (one_scale_) return QuantSpec::kWholeRow;
      if (along_columns) throw Error(ErrorKind::kUnsupported, "it has a scale for each column");
      expect({weight.rows});
      return QuantSpec::kWholeRow;
    }
    if (!along_columns) throw Error(ErrorKind::kUnsupported, "its blocks lie along the outputs");
    const size_t groups = ceil_div(weight.cols, static_cast<size_t>(block));
    expect(transposed_ ? Shape{groups, weight.rows} : Shape{weight.rows, groups});
    return static_cast<size_t>(block);
  }

  // Rows [from, from + rows) of W's order, [rows, width].
  void read_integers(const OnnxTensor& tensor, size_t from, size_t rows, size_t width, uint8_t* out) const {
    const auto* packed = reinterpret_cast<const uint8_t*>(tensor.bytes.data());
    const int bits = spec_->bits;
    if (transposed_) {
      std::vector<uint8_t> line(rows);
      for (size_t c = 0; c < width; ++c) {
        unpack_codes(packed, bits, c * all_rows_ + from, rows, line.data());
        for (size_t r = 0; r < rows; ++r) out[r * width + c] = line[r];
      }
    } else {
      unpack_codes(packed, bits, from * width, rows * width, out);
    }
    for (size_t i = 0; i < rows * width; ++i) out[i] ^= flip_;
  }

  std::vector<float> scales(size_t from, size_t rows) const {
    const DType dtype = spec_->scale_dtype;
    std::vector<float> out(rows * groups_);
    const auto read = [&](size_t first, size_t count, float* to) {
      floats_from_bytes(dtype, scales_.bytes.data() + byte_size(dtype, first), count, to, name_);
    };
    if (one_scale_) {
      read(0, 1, out.data());
      std::fill(out.begin(), out.end(), out[0]);
    } else if (!transposed_) {
      read(from * groups_, out.size(), out.data());
    } else {
      std::vector<float> line(rows);
      for (size_t g = 0; g < groups_; ++g) {
        read(g * all_rows_ + from, rows, line.data());
        for (size_t r = 0; r < rows; ++r) out[r * groups_ + g] = line[r];
      }
    }
    return out;
  }

  std::shared_ptr<const OnnxModel> model_;
  OnnxTensor codes_, scales_, zeros_;
  bool transposed_, one_scale_ = false;
  size_t all_rows_, first_, groups_ = 1;
  uint8_t flip_ = 0;
};

}  // namespace

std::unique_ptr<StoredTensor> onnx_dequantized_rows(std::shared_ptr<const OnnxModel> model, const OnnxWeight& weight,
                                                    std::string name, size_t first, size_t rows) {
  return std::make_unique<OnnxDequantized>(std::move(model), weight, std::move(name), first, rows);
}

}  // namespace nibble
