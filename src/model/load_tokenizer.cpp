#include "model/load_tokenizer.h"

#include "core/files.h"
#include "model/gguf_source.h"
#include "model/gguf_tokenizer.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

std::unique_ptr<Tokenizer> load_json(const fs::path& path) {
  const Json json = read_json_file(path);
  return with_context([&] { return path.string(); }, [&] { return make_tokenizer_from_json(json); });
}

std::unique_ptr<Tokenizer> load_gguf(const fs::path& path) {
  const auto gguf = Gguf::open(path);
  return with_context([&] { return path.string(); },
                      [&] { return make_tokenizer_from_json(tokenizer_from_gguf(*gguf).tokenizer); });
}

std::unique_ptr<Tokenizer> load_sentencepiece(const fs::path& path) {
  SentencePieceOptions options;
  const fs::path config_path = path.parent_path() / "tokenizer_config.json";
  std::error_code ignored;
  if (fs::is_regular_file(config_path, ignored)) {
    const Json config = read_json_file(config_path);
    with_context([&] { return config_path.string(); },
                 [&] {
                   options.add_bos = find_bool(config, "add_bos_token").value_or(options.add_bos);
                   options.add_eos = find_bool(config, "add_eos_token").value_or(options.add_eos);
                 });
  }
  const std::string proto = read_text_file(path);
  return with_context([&] { return path.string(); }, [&] { return make_tokenizer_from_sentencepiece(proto, options); });
}

// An ONNX file's tokenizer lies beside it.
fs::path with_tokenizer(const fs::path& model) {
  if (model.extension() != ".onnx") return model;
  return model.has_parent_path() ? model.parent_path() : ".";
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path) {
  const fs::path model = with_tokenizer(path);
  std::error_code ignored;
  if (fs::is_directory(model, ignored)) {
    if (const fs::path json = model / "tokenizer.json"; fs::exists(json, ignored)) return load_json(json);
    if (const fs::path proto = model / "tokenizer.model"; fs::exists(proto, ignored)) return load_sentencepiece(proto);
    throw Error(ErrorKind::kUsage,
                cat(model.string(), ": has no tokenizer.json or tokenizer.model; copy the model's tokenizer there"));
  }
  if (!fs::exists(model, ignored)) throw Error(ErrorKind::kUsage, cat(model.string(), ": no such file or folder"));
  if (model.extension() == ".json") return load_json(model);
  if (model.extension() == ".model") return load_sentencepiece(model);
  if (is_gguf(model)) return load_gguf(model);
  throw Error(ErrorKind::kUsage,
              cat(model.string(), ": is not a model folder, a .gguf, a tokenizer.json or a tokenizer.model"));
}

std::unique_ptr<Tokenizer> find_tokenizer(const fs::path& path) {
  const fs::path model = with_tokenizer(path);
  std::error_code ignored;
  if (fs::is_directory(model, ignored)) {
    if (!fs::exists(model / "tokenizer.json", ignored) && !fs::exists(model / "tokenizer.model", ignored))
      return nullptr;
  } else if (is_gguf(model) && !has_tokenizer(*Gguf::open(model))) {
    return nullptr;
  }
  return load_tokenizer(model);
}

}  // namespace nibble
