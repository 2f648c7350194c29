// MatMulBnb4: products with NF4 and bitsandbytes' FP4.
#include "core/checked.h"
#include "export/float_bytes.h"
#include "export/onnx_form.h"
#include "export/onnx_layout.h"

namespace nibble {
namespace {

// Codes of the whole matrix one after the other, [N, K], the first in the high half of a byte; one scale for each
// block. Source: ContribOperators.md of ONNX Runtime and runs of it, which also say that blocks have 16 to 256 values.
class Bnb4Form final : public OnnxForm {
 public:
  Bnb4Form(const OnnxWeight& weight, const QuantSpec& spec, size_t block)
      : layout_(spec, block, weight.cols, /*padded=*/true),
        rows_(weight.rows),
        dtype_(spec.scale_dtype),
        nf4_(spec.grid == Grid::kNF4) {
    const size_t bytes = layout_.codes_bytes(rows_), blocks = rows_ * layout_.blocks;
    parts_.push_back({"_Bnb4", onnx_type::kUint8, {bytes}, bytes});
    parts_.push_back({"_absmax", onnx_type_of(dtype_), {blocks}, layout_.scale_bytes(rows_, dtype_)});
  }

  std::vector<std::pair<std::string, int64_t>> needs_opsets() const override { return {{"com.microsoft", 1}}; }

  void write(size_t first_row, const QuantizedMatrix& q, const Sink& sink) override {
    std::vector<std::byte> codes(layout_.codes_bytes(q.rows));
    for (size_t i = 0; i < codes.size(); ++i)
      codes[i] = static_cast<std::byte>((q.codes[2 * i] << 4) | q.codes[2 * i + 1]);
    sink(0, layout_.codes_bytes(first_row), codes);
    sink(1, layout_.scale_bytes(first_row, dtype_), onnx_scales(q, layout_));
  }

  OnnxReplacement replace(const onnx::NodeProto& node, std::span<const std::string> names) const override {
    onnx::NodeProto product;
    product.set_name(node.name());
    product.set_op_type("MatMulBnb4");
    product.set_domain("com.microsoft");
    for (const std::string* input : {&node.input(0), &names[0], &names[1]}) product.add_input(*input);
    set_onnx_int(product, "K", layout_.cols);
    set_onnx_int(product, "N", rows_);
    set_onnx_int(product, "block_size", layout_.block);
    set_onnx_int(product, "quant_type", nf4_ ? 1 : 0);
    OnnxReplacement out;
    add_onnx_bias(std::move(product), node, out.nodes);
    return out;
  }

 private:
  OnnxBlocks layout_;
  size_t rows_;
  DType dtype_;
  bool nf4_;
};

}  // namespace

size_t onnx_bnb4_bytes(const QuantSpec& spec, size_t block, size_t rows, size_t cols) {
  const OnnxBlocks layout(spec, block, cols, /*padded=*/true);
  return layout.codes_bytes(rows) + layout.scale_bytes(rows, spec.scale_dtype);
}

std::unique_ptr<OnnxForm> onnx_bnb4_form(const OnnxWeight& weight, const QuantSpec& spec) {
  const auto block = weight.is_table() ? std::nullopt : onnx_table_block(spec, weight.cols);
  return block ? std::make_unique<Bnb4Form>(weight, spec, *block) : nullptr;
}

}  // namespace nibble
