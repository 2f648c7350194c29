#include "model/onnx_tensors.h"

#include <algorithm>

#include "core/checked.h"
#include "core/mapped_file.h"
#include "kernels/kernels.h"
#include "model/coded_tensor.h"
#include "model/onnx_bnb4.h"
#include "model/onnx_dequantized.h"
#include "model/source_floats.h"

namespace nibble {
namespace {

DType float_type(int type, const std::string& name) {
  const auto dtype = onnx_dtype(type);
  if (!dtype || !is_float(*dtype))
    throw Error(ErrorKind::kUnsupported, cat(name, " is ", onnx_type_name(type), ", which is not a type of weights"));
  return *dtype;
}

// Rows, or columns when it is stored transposed, of a float tensor.
class OnnxFloats final : public StoredTensor {
 public:
  // shape: as shown; the tensor is [*, shape.back()], or [cols, *] when `transposed`.
  OnnxFloats(std::string name, OnnxTensor tensor, Shape shape, bool transposed, size_t first)
      : tensor_(std::move(tensor)), transposed_(transposed), first_(first) {
    name_ = std::move(name);
    shape_ = std::move(shape);
    dtype_ = float_type(tensor_.type, name_);
    type_name_ = info(dtype_).name;
    bytes_ = byte_size(dtype_, element_count(shape_));
    element_ = byte_size(dtype_, 1);
  }

  void read_rows(size_t begin, size_t end, float* out) const override {
    if (!transposed_) {
      floats_from_bytes(dtype_, at((first_ + begin) * cols()), (end - begin) * cols(), out, name_);
      return;
    }
    // A strip of the stored matrix at a time: its rows are our columns.
    constexpr size_t kStrip = 64;
    const size_t rows = end - begin, stride = tensor_.shape[1];
    std::vector<float> strip(kStrip * rows);
    for (size_t col = 0; col < cols(); col += kStrip) {
      const size_t depth = std::min(kStrip, cols() - col);
      for (size_t i = 0; i < depth; ++i)
        floats_from_bytes(dtype_, at((col + i) * stride + first_ + begin), rows, strip.data() + i * rows, name_);
      kernels::active().transpose(strip.data(), rows, depth, rows, out + col, cols());
    }
  }

  std::optional<TensorView> view() const override {
    if (transposed_) return std::nullopt;
    return TensorView{dtype_, shape_, {at(first_ * cols()), bytes_}, tensor_.owner};
  }

  void release(size_t begin, size_t end) const noexcept override {
    if (!tensor_.mapped || begin >= end) return;
    // Columns lie in every page: those go when all have been read.
    if (transposed_ && end - begin < rows()) return;
    release_pages(transposed_ ? tensor_.bytes
                              : std::span(at((first_ + begin) * cols()), (end - begin) * cols() * element_));
  }

 private:
  const std::byte* at(size_t element) const { return tensor_.bytes.data() + element * element_; }

  OnnxTensor tensor_;
  bool transposed_;
  size_t first_, element_ = 0;
};

// Rows of MatMulNBits' weight: codes [rows, blocks, block * bits / 8], LSB first; scales [rows, blocks]; zero points
// packed along each row, or in the scales' type. GatherBlockQuantized's tables are the same, but the last block of a
// row may be short. Source: ONNX Runtime's ContribOperators.md.
class OnnxPacked final : public StoredTensor {
 public:
  OnnxPacked(std::shared_ptr<const OnnxModel> model, const OnnxWeight& weight, std::string name, size_t first,
             size_t rows)
      : model_(std::move(model)), first_(first) {
    name_ = std::move(name);
    const onnx::NodeProto& node = model_->graph().node(weight.nodes.front());
    const OnnxGraphIndex index(model_->graph());
    QuantSpec spec;
    spec.bits = checked_cast<int>(int_attribute(node, "bits", 4), "bits");
    const bool table = weight.op == OnnxWeight::Op::kGatherBlockQuantized;
    spec.group = checked_cast<size_t>(int_attribute(node, "block_size", table ? 128 : 0), "block_size");
    if (spec.bits < 1 || spec.bits > 8 || spec.group == 0 || spec.group % 8 != 0)
      throw Error(ErrorKind::kCorrupt, cat(spec.bits, " bits in blocks of ", spec.group, " columns"));
    blocks_ = ceil_div(weight.cols, spec.group);
    const auto bits = static_cast<size_t>(spec.bits);
    row_bytes_ = table ? weight.cols * bits / 8 : checked_mul(blocks_, spec.group * bits / 8, "size");
    const auto input = [&](int i) -> const onnx::TensorProto* {
      if (i >= node.input_size() || node.input(i).empty()) return nullptr;
      const onnx::TensorProto* tensor = index.initializer(node.input(i));
      if (!tensor) throw Error(ErrorKind::kUnsupported, cat("its input ", node.input(i), " is not constant"));
      return tensor;
    };
    const auto expect = [&](const OnnxTensor& tensor, size_t bytes, const char* what) {
      if (tensor.bytes.size() != bytes)
        throw Error(ErrorKind::kCorrupt, cat("its ", what, " hold ", tensor.bytes.size(), " bytes, expected ", bytes));
    };
    if (!table && input(4)) throw Error(ErrorKind::kUnsupported, "its columns are reordered (g_idx)");
    codes_ = model_->tensor(*weight.tensor);
    expect(codes_, checked_mul(weight.rows, row_bytes_, "size"), "codes");
    if (!input(2)) throw Error(ErrorKind::kCorrupt, "it has no scales");
    scales_ = model_->tensor(*input(2));
    dtype_ = float_type(scales_.type, name_);
    spec.scale_dtype = dtype_;
    expect(scales_, byte_size(dtype_, weight.rows * blocks_), "scales");
    if (const onnx::TensorProto* zeros = input(3)) {
      zeros_ = model_->tensor(*zeros);
      spec.symmetric = false;
      spec.mins = zeros_.type != onnx_type::kUint8;
      zero_bytes_ = ceil_div(blocks_ * static_cast<size_t>(spec.bits), 8);
      if (spec.mins && zeros_.type != scales_.type)
        throw Error(ErrorKind::kUnsupported, cat("zero points of type ", onnx_type_name(zeros_.type)));
      expect(zeros_, spec.mins ? scales_.bytes.size() : weight.rows * zero_bytes_, "zero points");
    } else {
      spec.full_range = true;  // scales may be negative
    }
    spec_ = spec;
    shape_ = {rows, weight.cols};
    type_name_ = cat("int", spec.bits);
    bytes_ = rows * row_bytes_ + (scales_.bytes.size() + zeros_.bytes.size()) * rows / weight.rows;
  }

  void read_rows(size_t begin, size_t end, float* out) const override { read_coded_rows(*this, begin, end, out); }

  QuantizedMatrix read_codes(size_t begin, size_t end) const override {
    QuantizedMatrix q{.spec = *spec_, .rows = end - begin, .cols = cols()};
    q.codes.resize(q.rows * q.cols);
    q.scales.resize(q.rows * blocks_);
    const bool packed_zeros = !q.spec.symmetric && !q.spec.mins;
    q.zeros.resize(packed_zeros ? q.rows * blocks_ : 0);
    const size_t from = first_ + begin, element = byte_size(dtype_, 1);
    floats_from_bytes(dtype_, scales_.bytes.data() + from * blocks_ * element, q.scales.size(), q.scales.data(), name_);
    if (q.spec.mins) {
      q.mins.resize(q.scales.size());
      floats_from_bytes(dtype_, zeros_.bytes.data() + from * blocks_ * element, q.mins.size(), q.mins.data(), name_);
      for (size_t i = 0; i < q.mins.size(); ++i) q.mins[i] *= -q.scales[i];
    }
    for (size_t r = 0; r < q.rows; ++r) {
      const auto* row = reinterpret_cast<const uint8_t*>(codes_.bytes.data()) + (from + r) * row_bytes_;
      // Blocks are whole bytes, so a row is one stream; only its end is padded.
      unpack_codes(row, q.spec.bits, 0, q.cols, q.codes.data() + r * q.cols);
      if (packed_zeros)
        unpack_codes(reinterpret_cast<const uint8_t*>(zeros_.bytes.data()) + (from + r) * zero_bytes_, q.spec.bits, 0,
                     blocks_, q.zeros.data() + r * blocks_);
    }
    validate(q);
    return q;
  }

  void release(size_t begin, size_t end) const noexcept override {
    if (codes_.mapped) release_pages(codes_.bytes.subspan((first_ + begin) * row_bytes_, (end - begin) * row_bytes_));
  }

 private:
  std::shared_ptr<const OnnxModel> model_;
  OnnxTensor codes_, scales_, zeros_;
  size_t first_, blocks_ = 0, row_bytes_ = 0, zero_bytes_ = 0;
};

}  // namespace

std::unique_ptr<StoredTensor> onnx_rows(std::shared_ptr<const OnnxModel> model, const OnnxWeight& weight,
                                        std::string name, size_t first, size_t rows) {
  return with_context([&] { return cat("node ", weight.name); },
                      [&]() -> std::unique_ptr<StoredTensor> {
                        if (first > weight.rows || rows > weight.rows - first)
                          throw Error(ErrorKind::kCorrupt,
                                      cat("its weight has ", weight.rows, " rows, ", first + rows, " are needed"));
                        if (weight.op == OnnxWeight::Op::kMatMulBnb4)
                          return onnx_bnb4_rows(std::move(model), weight, std::move(name), first, rows);
                        if (!weight.dequantizers.empty())
                          return onnx_dequantized_rows(std::move(model), weight, std::move(name), first, rows);
                        if (weight.is_packed())
                          return std::make_unique<OnnxPacked>(std::move(model), weight, std::move(name), first, rows);
                        OnnxTensor tensor = model->tensor(*weight.tensor);
                        return std::make_unique<OnnxFloats>(std::move(name), std::move(tensor),
                                                            Shape{rows, weight.cols}, weight.transposed, first);
                      });
}

std::unique_ptr<StoredTensor> onnx_vector(std::shared_ptr<const OnnxModel> model, const onnx::TensorProto& vector,
                                          std::string name, size_t first, size_t count) {
  OnnxTensor tensor = model->tensor(vector);
  const size_t held = element_count(tensor.shape);
  if (first > held || count > held - first)
    throw Error(ErrorKind::kCorrupt,
                cat("initializer ", vector.name(), " has ", held, " elements, ", first + count, " are needed"));
  return std::make_unique<OnnxFloats>(std::move(name), std::move(tensor), Shape{count}, false, first);
}

}  // namespace nibble
