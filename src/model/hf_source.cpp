#include "model/hf_source.h"

#include <algorithm>
#include <set>

#include "core/files.h"
#include "core/mapped_file.h"
#include "core/text.h"
#include "formats/safetensors.h"
#include "model/config.h"
#include "model/source_floats.h"
#include "quant/compressed_config.h"
#include "quant/compressed_tensors.h"

namespace nibble {
namespace {

class PlainTensor final : public StoredTensor {
 public:
  explicit PlainTensor(SafeTensor tensor) : view_(std::move(tensor.view)) {
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

class QuantizedTensor final : public StoredTensor {
 public:
  QuantizedTensor(const std::string& module, CompressedWeight weight, const ActivationSpec& activations, DType dtype)
      : weight_(std::move(weight)) {
    name_ = module + ".weight";
    shape_ = {weight_.rows(), weight_.cols()};
    bytes_ = weight_.bytes();
    dtype_ = dtype;
    spec_ = weight_.spec();
    activations_ = activations;
    type_name_ = spec_->grid == Grid::kInt ? cat("int", spec_->bits) : std::string(nibble::name(spec_->grid));
  }
  void read_rows(size_t begin, size_t end, float* out) const override {
    const size_t step = slice_rows(cols());
    for (size_t first = begin; first < end; first += step) {
      const size_t last = std::min(end, first + step);
      dequantize(weight_.read_codes(first, last), matrix(out + (first - begin) * cols(), last - first, cols()));
    }
  }
  QuantizedMatrix read_codes(size_t begin, size_t end) const override { return weight_.read_codes(begin, end); }
  PackedMatrix packed() const override { return weight_.packed(); }
  void release(size_t begin, size_t end) const noexcept override { release_pages(weight_.code_bytes(begin, end)); }

 private:
  CompressedWeight weight_;
};

// The type that a quantized module's floats would have: what config.json calls the model's type.
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

class HfSource final : public Source {
 public:
  explicit HfSource(const std::filesystem::path& folder) {
    path_ = folder;
    config_ = read_json_file(folder / "config.json");
    if (!config_.is_object())
      throw Error(ErrorKind::kCorrupt,
                  cat((folder / "config.json").string(), ": expected an object, found ", config_.type_name()));
    std::optional<CompressedConfig> quantization;
    if (const Json* found = nibble::find(config_, "quantization_config"))
      quantization = with_context([&] { return (folder / "config.json").string(); },
                                  [&] { return parse_compressed_config(*found); });
    config_.erase("quantization_config");
    std::vector<SafeTensor> stored = open_safetensors_folder(folder);
    with_context([&] { return folder.string(); },
                 [&] {
                   if (quantization)
                     add_quantized(stored, *quantization);
                   else
                     for (SafeTensor& tensor : stored)
                       tensors_.push_back(std::make_unique<PlainTensor>(std::move(tensor)));
                   index_tensors();
                 });
  }

  std::vector<std::string> side_files() const override {
    std::vector<std::string> names;
    std::error_code failure;
    for (const auto& entry : std::filesystem::directory_iterator(path_, failure)) {
      std::error_code unreadable;
      if (!entry.is_regular_file(unreadable)) continue;
      std::string name = entry.path().filename().string();
      if (is_side_file(name)) names.push_back(std::move(name));
    }
    if (failure) throw io_error(cat("cannot list ", path_.string()), failure.value());
    std::sort(names.begin(), names.end());
    return names;
  }

  std::string side_file(std::string_view name) const override {
    if (name.find('/') != std::string_view::npos || !is_side_file(name))
      throw Error(ErrorKind::kUsage, cat(path_.string(), ": ", name, " is not a side file"));
    return read_text_file(path_ / name);
  }

  std::string kind() const override { return "safetensors"; }

 private:
  static bool is_side_file(std::string_view name) {
    static const std::set<std::string, std::less<>> weights = {
        ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".npz", ".msgpack", ".partial"};
    if (name.empty() || name[0] == '.' || name == "config.json" || name.ends_with(".index.json")) return false;
    return !weights.contains(lower(std::filesystem::path(name).extension().string()));
  }

  // Each quantized module becomes one tensor in the place of its first part.
  void add_quantized(const std::vector<SafeTensor>& stored, const CompressedConfig& quantization) {
    static const std::set<std::string, std::less<>> parts = {
        "weight_packed", "weight", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "weight_min"};
    std::map<std::string, const TensorView*, std::less<>> by_name;
    for (const SafeTensor& tensor : stored) by_name.emplace(tensor.name, &tensor.view);
    const Architecture* architecture = nullptr;
    try {
      architecture = &architecture_of(config_);
    } catch (const Error&) {
      // Only the name of a module's class is lost: everything then counts as linear.
    }
    const DType dtype = model_dtype(config_);
    std::set<std::string> quantized_modules;
    for (const SafeTensor& tensor : stored) {
      const size_t dot = std::min(tensor.name.rfind('.'), tensor.name.size());
      const std::string module = tensor.name.substr(0, dot);
      const auto find_part = [&](std::string_view suffix) -> const TensorView* {
        const auto it = by_name.find(cat(module, ".", suffix));
        return it == by_name.end() ? nullptr : it->second;
      };
      const bool is_part = dot < tensor.name.size() && parts.contains(std::string_view(tensor.name).substr(dot + 1));
      if (!is_part || !CompressedWeight::present(find_part)) {
        tensors_.push_back(std::make_unique<PlainTensor>(tensor));
        continue;
      }
      if (!quantized_modules.insert(module).second) continue;
      const bool embedding = architecture && role_of(*architecture, module + ".weight") == TensorRole::kEmbedding;
      const CompressedGroup* group = quantization.find(module, embedding ? "Embedding" : "Linear");
      if (!group)
        throw Error(ErrorKind::kCorrupt,
                    cat(module, " is stored quantized, but no group of config.json's quantization_config targets it"));
      tensors_.push_back(std::make_unique<QuantizedTensor>(
          module, CompressedWeight::open(module, group->weights, find_part), group->activations, dtype));
    }
  }
};

}  // namespace

std::unique_ptr<Source> open_hf_source(const std::filesystem::path& folder) {
  return std::make_unique<HfSource>(folder);
}

}  // namespace nibble
