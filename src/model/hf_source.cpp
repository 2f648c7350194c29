#include "model/hf_source.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/files.h"
#include "core/text.h"
#include "formats/safetensors.h"
#include "formats/torch_checkpoint.h"
#include "model/hf_quantization.h"

namespace nibble {
namespace {

// Where GPTQModel and AutoAWQ keep a quantization_config too, with the method that is meant where it says none. What is
// copied beside another format must not say it.
constexpr std::pair<const char*, const char*> kQuantizationFiles[] = {{"quantize_config.json", "gptq"},
                                                                      {"quant_config.json", "awq"}};

class HfSource final : public Source {
 public:
  explicit HfSource(const std::filesystem::path& folder) {
    path_ = folder;
    config_ = read_json_file(folder / "config.json");
    if (!config_.is_object())
      throw Error(ErrorKind::kCorrupt,
                  cat((folder / "config.json").string(), ": expected an object, found ", config_.type_name()));
    const std::optional<OrderedJson> ordered = quantization_config();
    const std::optional<Json> quantization = ordered ? std::optional<Json>(*ordered) : std::nullopt;
    config_.erase("quantization_config");
    const HfQuantization* method = nullptr;
    if (quantization)
      method = with_context([&] { return (folder / "config.json").string(); },
                            [&] { return &find_hf_quantization(*quantization); });
    torch_ = is_torch_folder(folder);
    std::vector<NamedTensor> stored = torch_ ? open_torch_folder(folder) : open_safetensors_folder(folder);
    with_context([&] { return folder.string(); },
                 [&] {
                   if (method)
                     tensors_ = method->read({config_, *quantization, *ordered, std::move(stored), notes_});
                   else
                     for (NamedTensor& tensor : stored) tensors_.push_back(plain_tensor(std::move(tensor)));
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

  std::string kind() const override { return torch_ ? "torch" : "safetensors"; }

 private:
  static bool is_side_file(std::string_view name) {
    static const std::set<std::string, std::less<>> weights = {
        ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".npz", ".msgpack", ".partial"};
    if (name.empty() || name[0] == '.' || name == "config.json" || name.ends_with(".index.json")) return false;
    if (std::any_of(std::begin(kQuantizationFiles), std::end(kQuantizationFiles),
                    [&](const auto& file) { return name == file.first; }))
      return false;
    return !weights.contains(lower(std::filesystem::path(name).extension().string()));
  }

  // In config.json, or in a file of its own in older checkpoints.
  std::optional<OrderedJson> quantization_config() const {
    if (nibble::find(config_, "quantization_config"))
      return OrderedJson::parse(read_text_file(path_ / "config.json")).at("quantization_config");
    for (const auto& [name, method] : kQuantizationFiles) {
      std::error_code failure;
      const std::filesystem::path file = path_ / name;
      if (!std::filesystem::is_regular_file(file, failure)) continue;
      const std::string text = read_text_file(file);
      const Json checked = parse_json(text, file.string());  // whose limits hold
      if (!checked.is_object()) throw Error(ErrorKind::kCorrupt, cat(file.string(), ": expected an object"));
      OrderedJson json = OrderedJson::parse(text);
      if (nibble::find(checked, "quant_method") == nullptr)
        json["quant_method"] = find_string(checked, "method").value_or(method);
      return json;
    }
    return std::nullopt;
  }

  bool torch_ = false;  // weights in files of torch.save
};

}  // namespace

std::unique_ptr<Source> open_hf_source(const std::filesystem::path& folder) {
  return std::make_unique<HfSource>(folder);
}

}  // namespace nibble
