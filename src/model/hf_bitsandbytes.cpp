// quant_method "bitsandbytes": NF4 and FP4 in 4 bits, LLM.int8() in 8. What a module is follows from its tensors.
// Inputs are not quantized, and LLM.int8()'s outlier columns are those of its weights like all others.
#include "model/coded_tensor.h"
#include "model/hf_quantization.h"
#include "quant/bitsandbytes.h"

namespace nibble {
namespace {

constexpr std::string_view kParts[] = {".weight",
                                       ".weight.absmax",
                                       ".weight.quant_map",
                                       ".weight.nested_absmax",
                                       ".weight.nested_quant_map",
                                       ".weight.quant_state.bitsandbytes__nf4",
                                       ".weight.quant_state.bitsandbytes__fp4",
                                       ".SCB",
                                       ".weight_format"};

// A weight that no grid of ours describes: values only.
class ValuesTensor final : public StoredTensor {
 public:
  ValuesTensor(const std::string& module, Bitsandbytes4 weight) : weight_(std::move(weight)) {
    name_ = module + ".weight";
    shape_ = {weight_.rows(), weight_.cols()};
    bytes_ = weight_.bytes();
    dtype_ = weight_.dtype();
    type_name_ = cat("bnb-", weight_.nf4() ? "nf4" : "fp4", " g", weight_.block());
  }
  void read_rows(size_t begin, size_t end, float* out) const override { weight_.read_rows(begin, end, out); }
  void release(size_t begin, size_t end) const noexcept override { release_pages(weight_.code_bytes(begin, end)); }

 private:
  Bitsandbytes4 weight_;
};

std::unique_ptr<StoredTensor> open_module(const std::string& module, const FindPart& find, DType dtype) {
  const StoredParts parts{module, find};
  if (Bitsandbytes4::present(parts)) {
    auto weight = Bitsandbytes4::open(parts);
    if (!weight.canonical()) return std::make_unique<ValuesTensor>(module, std::move(weight));
    const DType floats = weight.dtype();
    return coded_tensor(module, std::move(weight), floats);
  }
  if (Bitsandbytes8::present(parts)) return coded_tensor(module, Bitsandbytes8::open(parts), dtype);
  return nullptr;
}

StoredTensors read(HfCheckpoint checkpoint) {
  const DType dtype = model_dtype(checkpoint.config);
  return gather_modules(std::move(checkpoint.tensors), kParts, [&](const std::string& module, const FindPart& find) {
    return open_module(module, find, dtype);
  });
}

}  // namespace

extern const HfQuantization hf_quantization_bitsandbytes;
const HfQuantization hf_quantization_bitsandbytes = {"bitsandbytes", read};

}  // namespace nibble
