// quant_method "gptq", "awq" and "auto-round": codes that lie transposed.
#include "core/mapped_file.h"
#include "model/hf_quantization.h"
#include "quant/transposed_config.h"

namespace nibble {
namespace {

class TransposedTensor final : public StoredTensor {
 public:
  TransposedTensor(const std::string& module, TransposedWeight weight, DType dtype) : weight_(std::move(weight)) {
    name_ = module + ".weight";
    shape_ = {weight_.rows(), weight_.cols()};
    bytes_ = weight_.bytes();
    dtype_ = dtype;
    spec_ = weight_.spec();
    type_name_ = cat("int", spec_->bits);
  }
  void read_rows(size_t begin, size_t end, float* out) const override {
    const size_t step = slice_rows(cols());
    for (size_t first = begin; first < end; first += step) {
      const size_t last = std::min(end, first + step);
      dequantize(weight_.read_codes(first, last), matrix(out + (first - begin) * cols(), last - first, cols()));
    }
  }
  QuantizedMatrix read_codes(size_t begin, size_t end) const override { return weight_.read_codes(begin, end); }
  PackedMatrix packed() const override {
    PackedMatrix packed = StoredTensor::packed();
    release(0, rows());
    return packed;
  }
  // Every row touches every page: they go when the last row has been read.
  void release(size_t begin, size_t end) const noexcept override {
    if (begin == 0 && end == rows()) release_pages(weight_.code_bytes());
  }

 private:
  TransposedWeight weight_;
};

constexpr std::string_view kParts[] = {".qweight", ".qzeros", ".scales", ".g_idx"};

StoredTensors read(HfCheckpoint checkpoint) {
  const TransposedConfig config = parse_transposed_config(checkpoint.ordered);
  const DType dtype = model_dtype(checkpoint.config);
  return gather_modules(std::move(checkpoint.tensors), kParts,
                        [&](const std::string& module, const FindPart& find) -> std::unique_ptr<StoredTensor> {
                          if (find(".qweight") == nullptr) return nullptr;
                          const auto find_part = [&](std::string_view suffix) { return find(cat(".", suffix)); };
                          return std::make_unique<TransposedTensor>(
                              module, TransposedWeight::open(module, config.format_of(module), find_part), dtype);
                        });
}

}  // namespace

extern const HfQuantization hf_quantization_gptq, hf_quantization_awq, hf_quantization_auto_round;
const HfQuantization hf_quantization_gptq = {"gptq", read};
const HfQuantization hf_quantization_awq = {"awq", read};
const HfQuantization hf_quantization_auto_round = {"auto-round", read};

}  // namespace nibble
