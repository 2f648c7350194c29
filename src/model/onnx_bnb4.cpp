#include "model/onnx_bnb4.h"

#include <algorithm>

#include "core/checked.h"
#include "core/mapped_file.h"
#include "model/source_floats.h"

namespace nibble {
namespace {

// Blocks of the flattened matrix, [rows, cols], share a scale; two codes to a byte, the first in the high half. Source:
// ONNX Runtime's ContribOperators.md.
class OnnxBnb4 final : public StoredTensor {
 public:
  OnnxBnb4(std::shared_ptr<const OnnxModel> model, const OnnxWeight& weight, std::string name, size_t first,
           size_t rows)
      : model_(std::move(model)), first_(first) {
    name_ = std::move(name);
    const onnx::NodeProto& node = model_->graph().node(weight.nodes.front());
    const auto block = checked_cast<size_t>(int_attribute(node, "block_size", 0), "block_size");
    const int64_t type = int_attribute(node, "quant_type", 1);
    if (block == 0) throw Error(ErrorKind::kCorrupt, "it has no block_size");
    if (type != 0 && type != 1) throw Error(ErrorKind::kUnsupported, cat("quant_type ", type));
    const size_t count = checked_mul(weight.rows, weight.cols, "size");
    block_ = block;
    grid_ = type == 1 ? Grid::kNF4 : Grid::kFP4Bnb;
    shape_ = {rows, weight.cols};
    codes_ = model_->tensor(*weight.tensor);
    const OnnxGraphIndex index(model_->graph());
    const onnx::TensorProto* scales = index.initializer(node.input(2));
    if (!scales) throw Error(ErrorKind::kUnsupported, cat("its input ", node.input(2), " is not constant"));
    scales_ = model_->tensor(*scales);
    const auto dtype = onnx_dtype(scales_.type);
    if (!dtype || !is_float(*dtype))
      throw Error(ErrorKind::kUnsupported, cat("scales of type ", onnx_type_name(scales_.type)));
    dtype_ = *dtype;
    if (codes_.type != onnx_type::kUint8 || codes_.bytes.size() != ceil_div(count, 2))
      throw Error(ErrorKind::kCorrupt,
                  cat("its codes hold ", codes_.bytes.size(), " bytes, expected ", ceil_div(count, 2)));
    if (scales_.bytes.size() != byte_size(dtype_, ceil_div(count, block)))
      throw Error(ErrorKind::kCorrupt,
                  cat("it has ", element_count(scales_.shape), " scales, expected ", ceil_div(count, block)));
    type_name_ = nibble::name(grid_);
    bytes_ = ceil_div(rows * weight.cols, 2) + byte_size(dtype_, ceil_div(rows * weight.cols, block));
    if (weight.cols % block == 0)
      spec_ = QuantSpec{.bits = 4, .group = block, .grid = grid_, .scale_dtype = dtype_};
    else
      type_name_ += cat(" in blocks of ", block);
  }

  void read_rows(size_t begin, size_t end, float* out) const override {
    const auto levels = grid_levels(grid_);
    for (size_t i = (first_ + begin) * cols(); i < (first_ + end) * cols();) {
      const size_t stop = std::min((first_ + end) * cols(), (i / block_ + 1) * block_);
      const float scale = scales(i / block_, 1)[0];
      for (; i < stop; ++i) *out++ = scale * levels[code(i)];
    }
  }

  QuantizedMatrix read_codes(size_t begin, size_t end) const override {
    QuantizedMatrix q{.spec = *spec_, .rows = end - begin, .cols = cols()};
    q.codes.resize(q.rows * q.cols);
    for (size_t i = 0; i < q.codes.size(); ++i) q.codes[i] = code((first_ + begin) * cols() + i);
    q.scales = scales((first_ + begin) * q.groups(), q.rows * q.groups());
    return q;
  }

  void release(size_t begin, size_t end) const noexcept override {
    if (!codes_.mapped) return;
    const size_t from = (first_ + begin) * cols() / 2, to = (first_ + end) * cols() / 2;
    release_pages(codes_.bytes.subspan(from, to - from));
  }

 private:
  uint8_t code(size_t index) const {
    const auto byte = static_cast<uint8_t>(codes_.bytes[index / 2]);
    return index % 2 == 0 ? byte >> 4 : byte & 15;
  }
  std::vector<float> scales(size_t from, size_t count) const {
    std::vector<float> values(count);
    floats_from_bytes(dtype_, scales_.bytes.data() + byte_size(dtype_, from), count, values.data(), name_);
    return values;
  }

  std::shared_ptr<const OnnxModel> model_;
  OnnxTensor codes_, scales_;
  size_t first_, block_ = 0;
  Grid grid_ = Grid::kNF4;
};

}  // namespace

std::unique_ptr<StoredTensor> onnx_bnb4_rows(std::shared_ptr<const OnnxModel> model, const OnnxWeight& weight,
                                             std::string name, size_t first, size_t rows) {
  return std::make_unique<OnnxBnb4>(std::move(model), weight, std::move(name), first, rows);
}

}  // namespace nibble
