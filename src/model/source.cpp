#include "model/source.h"

#include "model/gguf_source.h"
#include "model/hf_source.h"
#include "model/onnx_open.h"

namespace nibble {
namespace {

// Rows of one step of conversions that pass through QuantizedMatrix: bounds their scratch.
constexpr size_t kSliceElements = size_t{1} << 18;

[[noreturn]] void not_quantized(const std::string& tensor) {
  throw Error(ErrorKind::kUsage, cat("tensor ", tensor, " is not stored quantized"));
}

}  // namespace

size_t slice_rows(size_t cols) { return std::max<size_t>(1, kSliceElements / std::max<size_t>(1, cols)); }

QuantizedMatrix StoredTensor::read_codes(size_t, size_t) const { not_quantized(name_); }
std::vector<std::byte> StoredTensor::read_blocks(size_t, size_t) const { not_quantized(name_); }

PackedMatrix StoredTensor::packed() const {
  if (!spec_) not_quantized(name_);
  PackedMatrixBuilder builder(*spec_, rows(), cols());
  const size_t step = slice_rows(cols());
  for (size_t begin = 0; begin < rows(); begin += step) {
    const size_t end = std::min(rows(), begin + step);
    builder.add(begin, read_codes(begin, end));
    release(begin, end);
  }
  return builder.finish();
}

const StoredTensor* Source::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : tensors_[it->second].get();
}

const StoredTensor& Source::get(std::string_view name) const {
  const StoredTensor* tensor = find(name);
  if (!tensor) throw Error(ErrorKind::kCorrupt, cat(path_.string(), ": tensor ", name, " is missing"));
  return *tensor;
}

void Source::index_tensors() {
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (!by_name_.emplace(tensors_[i]->name(), i).second)
      throw Error(ErrorKind::kCorrupt, cat("tensor ", tensors_[i]->name(), " is there twice"));
}

std::unique_ptr<Source> Source::open(const std::filesystem::path& path) {
  std::error_code failure;
  const auto status = std::filesystem::status(path, failure);
  if (!std::filesystem::exists(status)) throw Error(ErrorKind::kIo, cat(path.string(), ": no such file or folder"));
  if (is_onnx(path)) return open_onnx_decoder(path);
  if (std::filesystem::is_directory(status)) return open_hf_source(path);
  if (is_gguf(path)) return open_gguf_source(path);
  throw Error(ErrorKind::kUnsupported, cat(path.string(),
                                           ": not a model that nibble reads; expected a folder with config.json and "
                                           "safetensors or pytorch_model.bin, a .gguf or an .onnx file"));
}

}  // namespace nibble
