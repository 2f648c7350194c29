#include "model/onnx_source.h"

#include <algorithm>
#include <set>

#include "core/files.h"
#include "core/json.h"
#include "core/text.h"
#include "model/onnx_tensors.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> file_names(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(folder, failure)) {
    std::error_code unreadable;
    if (entry.is_regular_file(unreadable)) names.push_back(entry.path().filename().string());
  }
  if (failure) throw io_error(cat("cannot list ", folder.string()), failure.value());
  std::sort(names.begin(), names.end());
  return names;
}

fs::path folder_of(const fs::path& file) { return file.has_parent_path() ? file.parent_path() : fs::path("."); }

bool has_extension(const std::string& name, std::string_view extension) { return lower(name).ends_with(extension); }

// A model may lie in any folder: only what is known to belong to one is taken along.
bool is_side_file(const std::string& name) {
  static const std::set<std::string, std::less<>> known = {"genai_config.json",
                                                           "config.json",
                                                           "generation_config.json",
                                                           "special_tokens_map.json",
                                                           "added_tokens.json",
                                                           "vocab.json",
                                                           "vocab.txt",
                                                           "merges.txt",
                                                           "tokenizer.json",
                                                           "tokenizer.model",
                                                           "tokenizer_config.json",
                                                           "chat_template.jinja",
                                                           "chat_template.json",
                                                           "preprocessor_config.json",
                                                           "processor_config.json",
                                                           "audio_processor_config.json",
                                                           "vision_processing.json",
                                                           "README.md"};
  return known.contains(name) || name.starts_with("LICENSE") || name.starts_with("NOTICE");
}

class GraphSource final : public OnnxSource {
 public:
  explicit GraphSource(const fs::path& file) : OnnxSource(file) {
    with_context([&] { return file.string(); },
                 [&] {
                   for (const OnnxWeight& weight : weights_) {
                     if (weight.is_packed()) continue;
                     add(onnx_rows(model_, weight, weight.name, 0, weight.rows), {&weight, nullptr, 0});
                   }
                   index_tensors();
                 });
  }
};

}  // namespace

OnnxSource::OnnxSource(const fs::path& file) : model_(OnnxModel::open(file)) {
  path_ = file;
  with_context([&] { return file.string(); },
               [&] {
                 index_ = std::make_unique<OnnxGraphIndex>(model_->graph());
                 weights_ = find_onnx_weights(*model_, *index_);
               });
}

void OnnxSource::add(std::unique_ptr<StoredTensor> tensor, const OnnxPlace& place) {
  places_.emplace(tensor->name(), place);
  tensors_.push_back(std::move(tensor));
}

std::vector<std::string> OnnxSource::side_files() const {
  std::vector<std::string> names = file_names(folder_of(path_));
  std::erase_if(names, [](const std::string& name) { return !is_side_file(name); });
  return names;
}

std::string OnnxSource::side_file(std::string_view name) const {
  if (!is_side_file(std::string(name)))
    throw Error(ErrorKind::kUsage, cat(path_.string(), ": ", name, " is not a side file"));
  return read_text_file(folder_of(path_) / name);
}

void expect_float_products(const onnx::GraphProto& graph, const std::vector<OnnxWeight>& weights) {
  std::set<const onnx::NodeProto*> known;
  for (const OnnxWeight& weight : weights) known.insert(weight.dequantizers.begin(), weight.dequantizers.end());
  for (const onnx::NodeProto& node : graph.node()) {
    const std::string& type = node.op_type();
    const bool inputs =
        type.starts_with("MatMulInteger") || type == "QLinearMatMul" || type.ends_with("QuantizeLinear");
    if (!inputs && (type != "DequantizeLinear" || known.contains(&node))) continue;
    throw Error(
        ErrorKind::kUnsupported,
        cat("node ", onnx_node_name(node), " is a ", type, ": nibble runs float graphs and packed weights",
            inputs ? ", not quantized inputs (W8A8); run it with ONNX Runtime, or quantize the Hugging Face model "
                     "with --scheme W8A8 to measure that here"
                   : "; this one makes no matrix that is multiplied with or looked up"));
  }
}

std::unique_ptr<Source> open_onnx_graph(const fs::path& path) { return std::make_unique<GraphSource>(onnx_file(path)); }

bool is_onnx(const fs::path& path) {
  std::error_code failure;
  if (!fs::is_directory(path, failure)) return has_extension(path.filename().string(), ".onnx");
  const std::vector<std::string> names = file_names(path);
  const auto any = [&](std::string_view extension) {
    return std::any_of(names.begin(), names.end(), [&](const auto& name) { return has_extension(name, extension); });
  };
  return any(".onnx") && !any(".safetensors");
}

fs::path onnx_file(const fs::path& path) {
  std::error_code failure;
  if (!fs::is_directory(path, failure)) return path;
  if (const fs::path genai = path / "genai_config.json"; fs::exists(genai, failure)) {
    const Json config = read_json_file(genai);
    const auto name = with_context([&] { return genai.string(); },
                                   [&] {
                                     const Json* model = find(config, "model");
                                     const Json* decoder = model ? find(*model, "decoder") : nullptr;
                                     return decoder ? find_string(*decoder, "filename") : std::nullopt;
                                   });
    if (name && fs::path(*name).filename() == *name) return path / *name;
  }
  std::vector<std::string> names = file_names(path);
  std::erase_if(names, [](const std::string& name) { return !has_extension(name, ".onnx"); });
  if (names.size() == 1) return path / names.front();
  throw Error(ErrorKind::kUsage, cat(path.string(), ": has ", names.size(), " .onnx files (", join(names, ", "),
                                     "); name the one that is meant"));
}

}  // namespace nibble
