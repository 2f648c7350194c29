#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/tensor.h"
#include "formats/gguf.h"
#include "quant/packed_matrix.h"
#include "quant/quantized_matrix.h"

namespace nibble {

// One logical tensor of a model, whatever its file calls it and however many file tensors it is made of. Immutable,
// thread-safe.
class StoredTensor {
 public:
  virtual ~StoredTensor() = default;

  const std::string& name() const { return name_; }  // Hugging Face name, "model.layers.3.mlp.down_proj.weight"
  const Shape& shape() const { return shape_; }      // outermost first; [out, in] for linears
  size_t rows() const { return shape_.empty() ? 1 : shape_[0]; }
  size_t cols() const { return element_count(shape_) / (rows() == 0 ? 1 : rows()); }
  size_t bytes() const { return bytes_; }  // on disk, scales and zero points included
  // F32, F16, BF16 (or another plain type); for quantized tensors the float type it dequantizes to.
  DType dtype() const { return dtype_; }
  // "F32", "Q4_1", "int4": for people.
  const std::string& type_name() const { return type_name_; }
  // Set when stored quantized.
  const std::optional<QuantSpec>& spec() const { return spec_; }
  const ActivationSpec& activations() const { return activations_; }

  // Rows [begin, end) as float, dense [end - begin, cols].
  virtual void read_rows(size_t begin, size_t end, float* out) const = 0;
  // Rows [begin, end) of the codes; only when spec().
  virtual QuantizedMatrix read_codes(size_t begin, size_t end) const;
  // The whole matrix ready to run; zero-copy where the file's layout allows; only when spec().
  virtual PackedMatrix packed() const;
  // Set when stored in GGML's blocks, whose type it is.
  const std::optional<DType>& block_type() const { return block_type_; }
  // Rows [begin, end) as blocks, to the byte; only when block_type().
  virtual std::vector<std::byte> read_blocks(size_t begin, size_t end) const;
  // The stored bytes; only when !spec(), and the rows are in file order. Otherwise nothing.
  virtual std::optional<TensorView> view() const { return std::nullopt; }
  // The mapped pages behind rows [begin, end) will not be needed for now.
  virtual void release(size_t begin, size_t end) const noexcept = 0;

 protected:
  std::string name_;
  Shape shape_;
  size_t bytes_ = 0;
  DType dtype_ = DType::kF32;
  std::string type_name_;
  std::optional<QuantSpec> spec_;
  std::optional<DType> block_type_;
  ActivationSpec activations_;
};

// Rows of `cols` columns to convert at a time: about a megabyte of floats.
size_t slice_rows(size_t cols);

// A model on disk as Hugging Face would lay it out: a config.json, logical tensors, side files. GGUF sources are
// presented the same way: config, tokenizer and template are generated from the metadata, names translated, the q/k row
// permutation undone.
class Source {
 public:
  // A folder (config.json + safetensors) or a .gguf file. Throws Error; the text starts with the file's name.
  static std::unique_ptr<Source> open(const std::filesystem::path& path);
  virtual ~Source() = default;

  const std::filesystem::path& path() const { return path_; }
  const Json& config() const { return config_; }                                          // without quantization_config
  const std::vector<std::unique_ptr<StoredTensor>>& tensors() const { return tensors_; }  // in file order
  const StoredTensor* find(std::string_view name) const;
  const StoredTensor& get(std::string_view name) const;  // throws Error(kCorrupt) "tensor NAME is missing"

  // Everything beside config and weights that a converted model should keep: tokenizer.json, tokenizer_config.json,
  // generation_config.json, chat_template.jinja, licences... Name -> contents (copied or generated on demand).
  virtual std::vector<std::string> side_files() const = 0;
  virtual std::string side_file(std::string_view name) const = 0;  // throws when absent
  virtual std::string kind() const = 0;                            // "safetensors", "gguf v3"
  // The file behind a GGUF source, for those that carry its metadata on unchanged; else null.
  virtual const Gguf* gguf() const { return nullptr; }
  // What of the checkpoint is not read, for people; usually nothing.
  const std::vector<std::string>& notes() const { return notes_; }

 protected:
  void index_tensors();  // call once tensors_ is complete; throws on duplicates

  std::filesystem::path path_;
  Json config_;
  std::vector<std::string> notes_;
  std::vector<std::unique_ptr<StoredTensor>> tensors_;

 private:
  std::map<std::string, size_t, std::less<>> by_name_;
};

}  // namespace nibble
