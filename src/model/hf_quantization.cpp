#include "model/hf_quantization.h"

#include <array>
#include <map>
#include <set>

#include "core/mapped_file.h"
#include "model/source_floats.h"

namespace nibble {

#define NIBBLE_HF_QUANTIZATION(name) extern const HfQuantization hf_quantization_##name;
#include "model/hf_quantizations.def"
#undef NIBBLE_HF_QUANTIZATION

namespace {

class PlainTensor final : public StoredTensor {
 public:
  explicit PlainTensor(NamedTensor tensor) : view_(std::move(tensor.view)) {
    name_ = std::move(tensor.name);
    shape_ = view_.shape;
    bytes_ = view_.bytes.size();
    dtype_ = view_.dtype;
    type_name_ = info(dtype_).name;
  }
  void read_rows(size_t begin, size_t end, float* out) const override {
    floats_from_bytes(dtype_, rows_at(begin, end).data(), (end - begin) * cols(), out, name_);
  }
  std::optional<TensorView> view() const override { return view_; }
  void release(size_t begin, size_t end) const noexcept override { release_pages(rows_at(begin, end)); }

 private:
  std::span<const std::byte> rows_at(size_t begin, size_t end) const {
    const size_t row = rows() == 0 ? 0 : bytes_ / rows();
    return view_.bytes.subspan(begin * row, (end - begin) * row);
  }
  TensorView view_;
};

std::span<const HfQuantization> quantizations() {
  static const std::array entries = {
#define NIBBLE_HF_QUANTIZATION(name) hf_quantization_##name,
#include "model/hf_quantizations.def"
#undef NIBBLE_HF_QUANTIZATION
  };
  return entries;
}

// What of `name` stands before the longest suffix; nothing when none fits.
std::optional<std::string> module_of(const std::string& name, std::span<const std::string_view> suffixes) {
  size_t longest = 0;
  for (const std::string_view suffix : suffixes)
    if (name.ends_with(suffix)) longest = std::max(longest, suffix.size());
  if (longest == 0) return std::nullopt;
  return name.substr(0, name.size() - longest);
}

}  // namespace

std::unique_ptr<StoredTensor> plain_tensor(NamedTensor tensor) {
  return std::make_unique<PlainTensor>(std::move(tensor));
}

const HfQuantization& find_hf_quantization(const Json& quantization) {
  return with_context([] { return "quantization_config"; },
                      [&]() -> const HfQuantization& {
                        if (!quantization.is_object()) throw Error(ErrorKind::kCorrupt, "it should be an object");
                        const std::string method = get_string(quantization, "quant_method");
                        std::string known;
                        for (const HfQuantization& entry : quantizations()) {
                          if (entry.method == method) return entry;
                          known += cat(known.empty() ? "" : ", ", entry.method);
                        }
                        throw Error(ErrorKind::kUnsupported,
                                    cat("'quant_method' \"", method, "\"; nibble reads ", known));
                      });
}

StoredTensors gather_modules(std::vector<NamedTensor> stored, std::span<const std::string_view> suffixes,
                             const OpenModule& open) {
  std::map<std::string, const TensorView*, std::less<>> by_name;
  for (const NamedTensor& tensor : stored) by_name.emplace(tensor.name, &tensor.view);
  StoredTensors tensors;
  std::set<std::string> opened, left_alone;
  std::vector<bool> plain(stored.size(), false);
  std::vector<std::unique_ptr<StoredTensor>> at(stored.size());
  for (size_t i = 0; i < stored.size(); ++i) {
    const auto module = module_of(stored[i].name, suffixes);
    if (!module || left_alone.contains(*module)) {
      plain[i] = true;
      continue;
    }
    if (opened.contains(*module)) continue;
    at[i] = open(*module, [&](std::string_view suffix) -> const TensorView* {
      const auto it = by_name.find(cat(*module, suffix));
      return it == by_name.end() ? nullptr : it->second;
    });
    plain[i] = !at[i];
    (at[i] ? opened : left_alone).insert(*module);
  }
  for (size_t i = 0; i < stored.size(); ++i) {
    if (at[i]) tensors.push_back(std::move(at[i]));
    if (plain[i]) tensors.push_back(plain_tensor(std::move(stored[i])));
  }
  return tensors;
}

DType model_dtype(const Json& config) {
  for (const char* key : {"dtype", "torch_dtype"})
    if (const auto it = config.find(key); it != config.end() && it->is_string()) {
      const auto& text = it->get_ref<const std::string&>();
      if (text == "bfloat16") return DType::kBF16;
      if (text == "float16") return DType::kF16;
      return DType::kF32;
    }
  return DType::kF32;
}

}  // namespace nibble
