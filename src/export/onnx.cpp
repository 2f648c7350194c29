// `onnx`: the source's graph with MatMulNBits, MatMulBnb4 and GatherBlockQuantized in the place of its products and
// look-ups.
#include "core/checked.h"
#include "export/float_bytes.h"
#include "export/onnx_form.h"
#include "export/onnx_layout.h"

namespace nibble {
namespace {

// Largest blocks that ONNX Runtime's CPU kernels take.
constexpr size_t kMostProduct = 256, kMostTable = 128;

class PackedForm final : public OnnxForm {
 public:
  PackedForm(const OnnxWeight& weight, const QuantSpec& spec, size_t block, int accuracy_level)
      : layout_(spec, block, weight.cols, /*padded=*/!weight.is_table()),
        rows_(weight.rows),
        table_(weight.is_table()),
        accuracy_level_(accuracy_level),
        dtype_(spec.scale_dtype) {
    const auto suffix = cat("_Q", spec.bits, "G", block);
    const Shape codes =
        table_ ? Shape{rows_, layout_.row_bytes} : Shape{rows_, layout_.blocks, layout_.row_bytes / layout_.blocks};
    const Shape scales{rows_, layout_.blocks};
    const int float_type = onnx_type_of(dtype_);
    parts_.push_back({suffix, onnx_type::kUint8, codes, layout_.codes_bytes(rows_)});
    parts_.push_back({"_scales", float_type, scales, layout_.scale_bytes(rows_, dtype_)});
    if (!layout_.zeros) return;
    const Shape zeros = layout_.float_zeros ? scales : Shape{rows_, layout_.zero_row_bytes};
    parts_.push_back({"_zero_points", layout_.float_zeros ? float_type : onnx_type::kUint8, zeros,
                      layout_.zero_bytes(rows_, dtype_)});
  }

  std::vector<std::pair<std::string, int64_t>> needs_opsets() const override { return {{"com.microsoft", 1}}; }

  void write(size_t first_row, const QuantizedMatrix& q, const Sink& sink) override {
    sink(0, layout_.codes_bytes(first_row), onnx_codes(q, layout_));
    sink(1, layout_.scale_bytes(first_row, dtype_), onnx_scales(q, layout_));
    if (layout_.zeros) sink(2, layout_.zero_bytes(first_row, dtype_), onnx_zeros(q, layout_));
  }

  OnnxReplacement replace(const onnx::NodeProto& node, std::span<const std::string> names) const override {
    onnx::NodeProto packed;
    packed.set_name(node.name());
    packed.set_domain("com.microsoft");
    *packed.add_output() = node.output(0);
    const std::string none;
    const std::string& zeros = names.size() > 2 ? names[2] : none;
    if (table_) {
      packed.set_op_type("GatherBlockQuantized");
      for (const std::string* input : {&names[0], &node.input(1), &names[1]}) packed.add_input(*input);
      if (!zeros.empty()) packed.add_input(zeros);
      set_onnx_int(packed, "gather_axis", 0);
      set_onnx_int(packed, "quantize_axis", 1);
    } else {
      packed.set_op_type("MatMulNBits");
      for (const std::string* input : {&node.input(0), &names[0], &names[1]}) packed.add_input(*input);
      const std::string bias = onnx_bias(node);  // what is absent at the end is left out
      if (!zeros.empty() || !bias.empty()) packed.add_input(zeros);
      if (!bias.empty()) packed.add_input(none), packed.add_input(bias);
      set_onnx_int(packed, "K", layout_.cols);
      set_onnx_int(packed, "N", rows_);
    }
    set_onnx_int(packed, "bits", static_cast<size_t>(layout_.bits));
    set_onnx_int(packed, "block_size", layout_.block);
    if (accuracy_level_ > 0 && !table_) set_onnx_int(packed, "accuracy_level", static_cast<size_t>(accuracy_level_));
    return {{packed}, {}};
  }

 private:
  OnnxBlocks layout_;
  size_t rows_;
  bool table_;
  int accuracy_level_;
  DType dtype_;
};

// The sizes of the plan are those of a product's weight: tables differ by their padding.
std::optional<size_t> product_block(const OutputTensor& tensor) { return onnx_block(*tensor.spec, kMostProduct); }
std::optional<size_t> table_block(const OutputTensor& tensor) { return onnx_table_block(*tensor.spec, tensor.cols()); }

size_t stored_bytes(const OutputTensor& tensor) {
  if (!tensor.spec) return byte_size(tensor.dtype, element_count(tensor.shape));
  if (quantizes_inputs(tensor)) return onnx_integer_bytes(*tensor.spec, tensor.rows(), tensor.cols(), /*qdq=*/false);
  if (const auto table = table_block(tensor))
    return onnx_bnb4_bytes(*tensor.spec, *table, tensor.rows(), tensor.cols());
  const auto block = product_block(tensor);
  if (!block) return byte_size(tensor.spec->scale_dtype, element_count(tensor.shape));
  const OnnxBlocks layout(*tensor.spec, *block, tensor.cols(), /*padded=*/true);
  return layout.codes_bytes(tensor.rows()) + layout.scale_bytes(tensor.rows(), tensor.spec->scale_dtype) +
         layout.zero_bytes(tensor.rows(), tensor.spec->scale_dtype);
}

std::string note(const OutputTensor& tensor) {
  if (!tensor.spec || quantizes_inputs(tensor) || product_block(tensor) || table_block(tensor)) return "";
  return cat(
      "no ONNX operator holds ", describe(*tensor.spec),
      ": dequantized floats are stored (2, 4 or 8 bits, nf4 and fp4_bnb in groups of 16 to 256 columns stay packed)");
}

}  // namespace

std::unique_ptr<OnnxForm> onnx_packed_form(const OnnxQuantized& quantized) {
  const auto& [weight, spec, activations, accuracy_level, tensor_ranges, opset] = quantized;
  if (activations.mode != ActivationSpec::Mode::kNone) return onnx_integer_form(quantized, /*qdq=*/false);
  const auto block = onnx_block(spec, weight.is_table() ? kMostTable : kMostProduct);
  // A table's rows are not padded, and its operator takes whole bytes.
  const bool whole_bytes = !weight.is_table() || weight.cols * static_cast<size_t>(spec.bits) % 8 == 0;
  const bool float_zeros = spec.mins && weight.is_table();
  if (auto form = onnx_bnb4_form(weight, spec)) return form;
  if (!block || !whole_bytes || float_zeros) return onnx_float_form(weight, spec);
  return std::make_unique<PackedForm>(weight, spec, *block, accuracy_level);
}

extern const ExporterEntry exporter_onnx;
const ExporterEntry exporter_onnx = {
    .name = "onnx",
    .summary =
        "ONNX graph with packed weights (MatMulNBits, MatMulBnb4; MatMulInteger with quantized inputs), from an ONNX "
        "model",
    .folder = true,
    .keeps_codes = true,
    .check = check_onnx,
    .stored_bytes = stored_bytes,
    .make = [](const std::filesystem::path& out, bool force,
               OutputModel model) { return make_onnx_exporter(out, force, std::move(model), onnx_packed_form); },
    .quantizes_head = true,
    .note = note,
    .asymmetric_inputs = true,
};

}  // namespace nibble
