#include "model/gguf_source.h"

#include <algorithm>
#include <fstream>
#include <mutex>

#include "core/mapped_file.h"
#include "core/text.h"
#include "model/config.h"
#include "model/gguf_config.h"
#include "model/gguf_tokenizer.h"
#include "model/source_floats.h"
#include "quant/ggml_blocks.h"

namespace nibble {
namespace {

class GgufModelTensor final : public StoredTensor {
 public:
  // `head_rows`: rows of one head when the file has them interleaved, 0 when they are in Hugging Face's order.
  // `mapped`: the bytes are pages of a file, not of memory that would lose them.
  GgufModelTensor(std::string name, TensorView view, size_t head_rows, bool mapped)
      : view_(std::move(view)), head_rows_(head_rows), mapped_(mapped) {
    name_ = std::move(name);
    shape_ = view_.shape;
    bytes_ = view_.bytes.size();
    type_name_ = info(view_.dtype).name;
    row_bytes_ = rows() == 0 ? 0 : bytes_ / rows();
    if (is_block_type(view_.dtype))
      spec_ = ggml_spec(view_.dtype), block_type_ = view_.dtype;
    else
      dtype_ = view_.dtype;
  }

  void read_rows(size_t begin, size_t end, float* out) const override {
    // Adjacent rows of the file at a time; interleaved rows have no neighbours.
    const size_t step = spec_ || head_rows_ == 0 ? slice_rows(cols()) : 1;
    for (size_t first = begin; first < end; first += step) {
      const size_t last = std::min(end, first + step);
      float* to = out + (first - begin) * cols();
      if (spec_)
        dequantize(read_codes(first, last), matrix(to, last - first, cols()));
      else
        floats_from_bytes(dtype_, row(file_row(first)), (last - first) * cols(), to, name_);
    }
  }

  QuantizedMatrix read_codes(size_t begin, size_t end) const override {
    if (!spec_) return StoredTensor::read_codes(begin, end);
    if (head_rows_ == 0) return import_rows(end - begin, {row(begin), (end - begin) * row_bytes_});
    return import_rows(end - begin, read_blocks(begin, end));
  }

  std::vector<std::byte> read_blocks(size_t begin, size_t end) const override {
    if (!block_type_) return StoredTensor::read_blocks(begin, end);
    std::vector<std::byte> rows((end - begin) * row_bytes_);
    for (size_t r = begin; r < end; ++r)
      std::copy_n(row(file_row(r)), row_bytes_, rows.data() + (r - begin) * row_bytes_);
    return rows;
  }

  std::optional<TensorView> view() const override {
    if (spec_ || head_rows_ != 0) return std::nullopt;
    return view_;
  }

  void release(size_t begin, size_t end) const noexcept override {
    if (!mapped_) return;
    if (head_rows_ != 0) {  // interleaving moves rows within their head only
      begin = begin / head_rows_ * head_rows_;
      end = std::min(rows(), (end + head_rows_ - 1) / head_rows_ * head_rows_);
    }
    release_pages(view_.bytes.subspan(begin * row_bytes_, (end - begin) * row_bytes_));
  }

 private:
  QuantizedMatrix import_rows(size_t count, std::span<const std::byte> bytes) const {
    return with_context([&] { return cat("tensor ", name_); },
                        [&] { return import_ggml_rows(view_.dtype, count, cols(), bytes); });
  }

  const std::byte* row(size_t r) const { return view_.bytes.data() + r * row_bytes_; }

  size_t file_row(size_t r) const {
    if (head_rows_ == 0) return r;
    const size_t within = r % head_rows_, half = head_rows_ / 2;
    return r - within + 2 * (within % half) + within / half;
  }

  TensorView view_;
  size_t head_rows_;
  bool mapped_;
  size_t row_bytes_ = 0;
};

class GgufSource final : public Source {
 public:
  GgufSource(std::shared_ptr<const Gguf> gguf, const std::filesystem::path& path, bool mapped)
      : gguf_(std::move(gguf)), mapped_(mapped) {
    path_ = path;
    with_context([&] { return path_.string(); }, [&] { read(); });
  }

  std::vector<std::string> side_files() const override {
    std::vector<std::string> names;
    if (!has_tokenizer(*gguf_)) return names;
    if (gguf_->find_string("tokenizer.chat_template")) names.emplace_back("chat_template.jinja");
    names.insert(names.end(), {"generation_config.json", "tokenizer.json", "tokenizer_config.json"});
    return names;
  }

  std::string side_file(std::string_view name) const override {
    const auto names = side_files();
    if (std::find(names.begin(), names.end(), name) == names.end())
      throw Error(ErrorKind::kUsage, cat(path_.string(), ": there is no side file ", name));
    return with_context([&] { return path_.string(); }, [&] { return make_side_file(name); });
  }

  std::string kind() const override { return cat("gguf v", gguf_->version()); }
  const Gguf* gguf() const override { return gguf_.get(); }

 private:
  void read() {
    const auto family = gguf_->find_string("general.architecture");
    if (!family) throw Error(ErrorKind::kCorrupt, "metadata key general.architecture is missing");
    const Architecture& architecture = get_gguf_architecture(*family);
    config_ = config_from_gguf(*gguf_, architecture);
    const ModelConfig model = parse_config(config_);
    for (const GgufTensor& tensor : gguf_->tensors()) {
      if (is_gguf_config_tensor(tensor.name)) continue;
      const auto place = find_gguf_tensor(architecture, tensor.name);
      if (!place)
        throw Error(ErrorKind::kUnsupported,
                    cat("tensor ", tensor.name, " is not one that architecture '", *family, "' is known to have"));
      if (is_block_type(tensor.view.dtype) && tensor.view.shape.size() != 2)
        throw Error(ErrorKind::kUnsupported,
                    cat("tensor ", tensor.name, " is ", info(tensor.view.dtype).name, " but not a matrix"));
      const size_t head_rows = place->rule->gguf_interleaved ? model.head_dim : 0;
      if (head_rows != 0 && (tensor.view.shape.empty() || tensor.view.shape[0] % head_rows != 0))
        throw Error(ErrorKind::kCorrupt,
                    cat("tensor ", tensor.name, " does not consist of heads of ", head_rows, " rows"));
      tensors_.push_back(std::make_unique<GgufModelTensor>(tensor_name(place->rule->hf, place->layer, place->bias),
                                                           tensor.view, head_rows, mapped_));
    }
    index_tensors();
  }

  std::string make_side_file(std::string_view name) const {
    if (name == "generation_config.json") {
      OrderedJson generation = {{"_from_model_config", true}};
      for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
        if (config_.contains(key)) generation[key] = config_[key];
      return generation.dump(2) + "\n";
    }
    // The vocabulary takes a while to translate and is asked for file by file.
    const std::lock_guard lock(mutex_);
    if (!tokenizer_) tokenizer_ = tokenizer_from_gguf(*gguf_);
    if (name == "chat_template.jinja") return tokenizer_->chat_template.value_or("");
    const Json& json = name == "tokenizer.json" ? tokenizer_->tokenizer : tokenizer_->tokenizer_config;
    return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  }

  std::shared_ptr<const Gguf> gguf_;
  bool mapped_;
  mutable std::mutex mutex_;
  mutable std::optional<GgufTokenizerFiles> tokenizer_;
};

}  // namespace

std::unique_ptr<Source> make_gguf_source(std::shared_ptr<const Gguf> gguf, const std::filesystem::path& path) {
  return std::make_unique<GgufSource>(std::move(gguf), path, /*mapped=*/false);
}

bool is_gguf(const std::filesystem::path& path) {
  if (lower(path.extension().string()) == ".gguf") return true;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return false;
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
  return std::string_view(magic, sizeof magic) == "GGUF";
}

std::unique_ptr<Source> open_gguf_source(const std::filesystem::path& file) {
  return std::make_unique<GgufSource>(Gguf::open(file), file, /*mapped=*/true);
}

}  // namespace nibble
