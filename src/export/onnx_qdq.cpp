// `onnx-qdq`: the source's graph with DequantizeLinear before its products and look-ups, for any runtime of opset 21.
#include <algorithm>
#include <mutex>

#include "core/checked.h"
#include "export/float_bytes.h"
#include "export/onnx_form.h"

namespace nibble {
namespace {

bool holds(const QuantSpec& spec) {
  return spec.grid == Grid::kInt && !spec.mins && (spec.bits == 4 || spec.bits == 8);
}

// Codes in the order that the node reads: [K, N] for MatMul, where the blocks lie along axis 0, else [N, K]. Symmetric
// codes are signed and have no zero points. Specification: DequantizeLinear-21 of ONNX.
class QdqForm final : public OnnxForm {
 public:
  QdqForm(const OnnxWeight& weight, const QuantSpec& spec)
      : spec_(spec),
        rows_(weight.rows),
        cols_(weight.cols),
        transposed_(onnx_reads_transposed(weight)),
        blocked_(!spec.per_tensor && spec.group != QuantSpec::kWholeRow && spec.group < weight.cols),
        groups_(blocked_ ? spec.groups(weight.cols) : 1) {
    const int type = spec.bits == 4 ? (spec.symmetric ? onnx_type::kInt4 : onnx_type::kUint4)
                                    : (spec.symmetric ? onnx_type::kInt8 : onnx_type::kUint8);
    const Shape codes = transposed_ ? Shape{cols_, rows_} : Shape{rows_, cols_};
    const Shape scales = !blocked_ ? Shape{rows_} : transposed_ ? Shape{groups_, rows_} : Shape{rows_, groups_};
    parts_.push_back({cat("_Q", spec.bits), type, codes, packed_size(rows_ * cols_)});
    parts_.push_back({"_scales", onnx_type_of(spec.scale_dtype), scales, byte_size(spec.scale_dtype, rows_ * groups_)});
    if (!spec.symmetric) parts_.push_back({"_zero_points", type, scales, packed_size(rows_ * groups_)});
  }

  // Blocks and 4-bit types came with opset 21.
  std::vector<std::pair<std::string, int64_t>> needs_opsets() const override {
    return {{"", blocked_ || spec_.bits == 4 || spec_.scale_dtype != DType::kF32 ? 21 : 13}};
  }

  void write(size_t first_row, const QuantizedMatrix& q, const Sink&) override {
    const std::lock_guard lock(mutex_);
    if (codes_.empty()) {
      codes_.resize(parts_[0].bytes);
      scales_.resize(rows_ * groups_);
      zeros_.resize(spec_.symmetric ? 0 : parts_[2].bytes);
    }
    const auto flip = static_cast<uint8_t>(spec_.symmetric ? 1 << (spec_.bits - 1) : 0);  // code - 2^(bits-1), signed
    for (size_t r = 0; r < q.rows; ++r) {
      const size_t row = first_row + r;
      for (size_t c = 0; c < cols_; ++c)
        put(codes_, at(row, c, cols_), static_cast<uint8_t>(q.codes[r * cols_ + c] ^ flip));
      for (size_t g = 0; g < groups_; ++g) {
        const size_t from = spec_.per_tensor ? 0 : r * q.groups() + g;
        scales_[at(row, g, groups_)] = q.scales[from];
        if (!spec_.symmetric) put(zeros_, at(row, g, groups_), q.zeros[from]);
      }
    }
  }

  void finish(const Sink& sink) override {
    sink(0, 0, std::as_bytes(std::span(codes_)));
    sink(1, 0, float_bytes(scales_, spec_.scale_dtype));
    if (!spec_.symmetric) sink(2, 0, std::as_bytes(std::span(zeros_)));
    codes_ = {};
    scales_ = {};
    zeros_ = {};
  }

  OnnxReplacement replace(const onnx::NodeProto& node, std::span<const std::string> names) const override {
    const std::string floats = onnx_new(names[0] + "_dequantized");
    onnx::NodeProto dequantize;
    dequantize.set_op_type("DequantizeLinear");
    dequantize.set_name(floats);
    for (const std::string& name : names) dequantize.add_input(name);
    dequantize.add_output(floats);
    const bool along_first = transposed_ == blocked_;  // blocks lie along the inputs, single scales along the outputs
    set_onnx_int(dequantize, "axis", along_first ? 0 : 1);
    if (blocked_) set_onnx_int(dequantize, "block_size", spec_.group);
    OnnxReplacement out{{dequantize}, {}};
    for (onnx::NodeProto& changed : onnx_with_floats(node, floats, transposed_))
      out.nodes.push_back(std::move(changed));
    return out;
  }

 private:
  size_t packed_size(size_t count) const { return ceil_div(count * static_cast<size_t>(spec_.bits), 8); }
  size_t at(size_t row, size_t col, size_t width) const { return transposed_ ? col * rows_ + row : row * width + col; }
  // Low nibble first.
  void put(std::vector<uint8_t>& codes, size_t index, uint8_t code) const {
    if (spec_.bits == 8)
      codes[index] = code;
    else
      codes[index / 2] = static_cast<uint8_t>(codes[index / 2] | (code << (index % 2 * 4)));
  }

  QuantSpec spec_;
  size_t rows_, cols_;
  bool transposed_, blocked_;
  size_t groups_;
  std::mutex mutex_;
  std::vector<uint8_t> codes_, zeros_;
  std::vector<float> scales_;
};

size_t stored_bytes(const OutputTensor& tensor) {
  if (!tensor.spec) return byte_size(tensor.dtype, element_count(tensor.shape));
  const QuantSpec& spec = *tensor.spec;
  if (quantizes_inputs(tensor)) return onnx_integer_bytes(spec, tensor.rows(), tensor.cols(), /*qdq=*/true);
  if (!holds(spec)) return byte_size(spec.scale_dtype, element_count(tensor.shape));
  const size_t groups = tensor.rows() * (spec.per_tensor ? 1 : spec.groups(tensor.cols()));
  const auto bits = static_cast<size_t>(spec.bits);
  return ceil_div(tensor.rows() * tensor.cols() * bits, 8) + byte_size(spec.scale_dtype, groups) +
         (spec.symmetric ? 0 : ceil_div(groups * bits, 8));
}

void check(const OutputTensor& tensor) {
  check_onnx(tensor);
  if (tensor.spec && tensor.activations.mode == ActivationSpec::Mode::kDynamicPerToken)
    throw Error(ErrorKind::kUsage, cat(tensor.name,
                                       ": QuantizeLinear and DequantizeLinear have no dynamic ranges; use --format "
                                       "onnx, or --act static"));
}

std::string note(const OutputTensor& tensor) {
  if (!tensor.spec || holds(*tensor.spec)) return "";
  return cat("DequantizeLinear holds no ", describe(*tensor.spec),
             ": dequantized floats are stored (4 or 8 bits stay packed)");
}

}  // namespace

std::unique_ptr<OnnxForm> onnx_qdq_form(const OnnxQuantized& quantized) {
  const auto& [weight, spec, activations, accuracy_level, tensor_ranges, opset] = quantized;
  if (activations.mode != ActivationSpec::Mode::kNone) return onnx_integer_form(quantized, /*qdq=*/true);
  if (!holds(spec)) return onnx_float_form(weight, spec);
  return std::make_unique<QdqForm>(weight, spec);
}

extern const ExporterEntry exporter_onnx_qdq;
const ExporterEntry exporter_onnx_qdq = {
    .name = "onnx-qdq",
    .summary = "ONNX graph with DequantizeLinear nodes (opset 21), from an ONNX model",
    .folder = true,
    .keeps_codes = true,
    .check = check,
    .stored_bytes = stored_bytes,
    .make = [](const std::filesystem::path& out, bool force,
               OutputModel model) { return make_onnx_exporter(out, force, std::move(model), onnx_qdq_form); },
    .quantizes_head = true,
    .note = note,
    .asymmetric_inputs = true,
};

}  // namespace nibble
