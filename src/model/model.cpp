#include "model/model.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "core/interrupt.h"
#include "core/threads.h"
#include "core/weight_memory.h"
#include "model/decoder.h"
#include "model/source_floats.h"

namespace nibble {
namespace {

// Loads modules by slot, checks them, and counts what it loaded.
class Loader {
 public:
  Loader(const ModelConfig& config, const Source& source, const LoadOptions& options, Progress& progress)
      : config_(config), source_(source), options_(options), progress_(progress) {
    for (const auto& tensor : source.tensors()) total_ += tensor->bytes();
  }

  std::vector<float> norm(Slot slot, std::optional<size_t> layer = {}) {
    const TensorRule* rule = config_.architecture->find(slot);
    if (!rule) return {};
    return vector(tensor_name(rule->hf, layer, false), weight_shape(config_, slot));
  }

  // Null weights for slots that the family does not fill.
  Linear linear(Slot slot, std::optional<size_t> layer = {}) {
    const TensorRule* rule = config_.architecture->find(slot);
    if (!rule) return {};
    Linear result;
    const bool multiplied = slot != Slot::kEmbedding || config_.tied_embeddings;
    result.weight = matrix(tensor_name(rule->hf, layer, false), weight_shape(config_, slot), multiplied);
    const std::string bias = tensor_name(rule->hf, layer, true);
    const bool required = config_.bias[static_cast<size_t>(rule - config_.architecture->tensors.data())];
    if (required || source_.find(bias)) result.bias = vector(bias, {result.weight.rows()});
    return result;
  }

  size_t bytes() const { return bytes_; }
  size_t token_bytes() const { return token_bytes_; }

 private:
  const StoredTensor& get(const std::string& name, const Shape& expected) {
    check_interrupted();
    progress_.update(done_, total_, name);
    const StoredTensor& tensor = source_.get(name);
    if (tensor.shape() != expected)
      throw Error(ErrorKind::kCorrupt, cat(source_.path().string(), ": tensor ", name, " has the shape ",
                                           describe(tensor.shape()), ", config.json asks for ", describe(expected)));
    done_ += tensor.bytes();
    return tensor;
  }

  template <class Read>
  auto in_source(Read read) const {
    return with_context([&] { return source_.path().string(); }, read);
  }

  std::vector<float> vector(const std::string& name, const Shape& expected) {
    const StoredTensor& tensor = get(name, expected);
    std::vector<float> values(expected[0]);
    in_source([&] { tensor.read_rows(0, tensor.rows(), values.data()); });
    bytes_ += values.size() * sizeof(float);
    token_bytes_ += values.size() * sizeof(float);
    return values;
  }

  WeightMatrix matrix(const std::string& name, const Shape& expected, bool multiplied) {
    const StoredTensor& tensor = get(name, expected);
    WeightMatrix weight = in_source([&] { return load(tensor); });
    if (const PackedMatrix* packed = weight.packed();
        multiplied && at(Compute::kInt8) && packed != nullptr && Int8Matrix::accepts(*packed)) {
      WeightMatrix ordered(Int8Matrix{*packed});
      ordered.activations = weight.activations;
      weight = std::move(ordered);
    }
    const bool stored_bf16 = weight.dense() != nullptr && weight.dense()->dtype == DType::kBF16;
    weight.bf16_products = multiplied && at(Compute::kBf16) && (options_.compute != Compute::kAuto || stored_bf16);
    bytes_ += weight.bytes();
    if (multiplied) token_bytes_ += weight.bytes();
    return weight;
  }

  bool at(Compute level) const { return options_.compute == level || options_.compute == Compute::kAuto; }

  WeightMatrix load(const StoredTensor& tensor) const {
    if (options_.replace)
      if (auto replaced = options_.replace(tensor)) return *std::move(replaced);
    if (tensor.spec()) {
      WeightMatrix weight(tensor.packed());
      weight.activations = tensor.activations();
      return weight;
    }
    const bool native =
        tensor.dtype() == DType::kF32 || tensor.dtype() == DType::kF16 || tensor.dtype() == DType::kBF16;
    const DType dtype = options_.dtype.value_or(native ? tensor.dtype() : DType::kF32);
    const size_t size = info(dtype).block_bytes;
    const size_t cols = tensor.cols();
    if (const auto view = tensor.view();
        view && dtype == tensor.dtype() && reinterpret_cast<uintptr_t>(view->bytes.data()) % size == 0) {
      if (!options_.copy_dense)
        return WeightMatrix(DenseMatrix{dtype, tensor.rows(), cols, view->bytes.data(), view->owner});
      const auto storage = copy(view->bytes);
      tensor.release(0, tensor.rows());
      return WeightMatrix(DenseMatrix{dtype, tensor.rows(), cols, storage.get(), storage});
    }
    const size_t step = std::min(tensor.rows(), slice_rows(cols));
    const std::shared_ptr<std::byte> storage = weight_memory(tensor.rows() * cols * size);
    std::vector<float> values(step * cols);
    for (size_t begin = 0; begin < tensor.rows(); begin += step) {
      const size_t end = std::min(tensor.rows(), begin + step);
      tensor.read_rows(begin, end, values.data());
      floats_to_bytes(values.data(), (end - begin) * cols, dtype, storage.get() + begin * cols * size);
      tensor.release(begin, end);
    }
    tensor.release(0, tensor.rows());  // pages that two steps share, and all of a transposed one
    return WeightMatrix(DenseMatrix{dtype, tensor.rows(), cols, storage.get(), storage});
  }

  static std::shared_ptr<std::byte> copy(std::span<const std::byte> bytes) {
    std::shared_ptr<std::byte> storage = weight_memory(bytes.size());
    parallel_for(bytes.size(), size_t{1} << 20,
                 [&](size_t begin, size_t end) { std::memcpy(storage.get() + begin, &bytes[begin], end - begin); });
    return storage;
  }

  const ModelConfig& config_;
  const Source& source_;
  const LoadOptions& options_;
  Progress& progress_;
  size_t done_ = 0, total_ = 0, bytes_ = 0, token_bytes_ = 0;
};

DecoderLayer load_layer(Loader& loader, size_t i) {
  DecoderLayer layer;
  layer.attention_norm = loader.norm(Slot::kAttentionNorm, i);
  layer.query = loader.linear(Slot::kQuery, i);
  layer.key = loader.linear(Slot::kKey, i);
  layer.value = loader.linear(Slot::kValue, i);
  layer.query_norm = loader.norm(Slot::kQueryNorm, i);
  layer.key_norm = loader.norm(Slot::kKeyNorm, i);
  layer.attention_output = loader.linear(Slot::kAttentionOutput, i);
  layer.mlp_norm = loader.norm(Slot::kMlpNorm, i);
  layer.gate = loader.linear(Slot::kGate, i);
  layer.up = loader.linear(Slot::kUp, i);
  layer.down = loader.linear(Slot::kDown, i);
  return layer;
}

}  // namespace

DecoderLayer load_layer(const ModelConfig& config, const Source& source, const LoadOptions& options, size_t index) {
  Loader loader(config, source, options, no_progress());
  return load_layer(loader, index);
}

std::vector<float> load_final_norm(const ModelConfig& config, const Source& source) {
  const LoadOptions options;
  return Loader(config, source, options, no_progress()).norm(Slot::kFinalNorm);
}

DecoderWeights load_weights(const ModelConfig& config, const Source& source, const LoadOptions& options,
                            Progress& progress) {
  if (options.dtype && *options.dtype != DType::kF32 && *options.dtype != DType::kF16 && *options.dtype != DType::kBF16)
    throw Error(ErrorKind::kUsage,
                cat("weights cannot be stored as ", info(*options.dtype).name, "; choose F32, F16 or BF16"));
  Loader loader(config, source, options, progress);
  DecoderWeights weights;
  weights.embedding = loader.linear(Slot::kEmbedding).weight;
  for (size_t i = 0; i < config.layers; ++i) weights.layers.push_back(load_layer(loader, i));
  weights.final_norm = loader.norm(Slot::kFinalNorm);
  if (!config.tied_embeddings) {
    Linear head = loader.linear(Slot::kLmHead);
    weights.lm_head = std::move(head.weight);
    weights.lm_head_bias = std::move(head.bias);
  }
  weights.bytes = loader.bytes();
  weights.token_bytes = loader.token_bytes();
  return weights;
}

void Model::forward_batch(std::span<const TokenId> tokens, std::span<KvCache* const> caches, MatrixView<float> logits) {
  assert(tokens.size() == caches.size() && tokens.size() == logits.rows);
  for (size_t i = 0; i < tokens.size(); ++i)
    forward(tokens.subspan(i, 1), *caches[i], {logits.row(i), 1, logits.cols, logits.stride});
}

std::unique_ptr<Model> Model::load(const Source& source, const LoadOptions& options, Progress& progress) {
  ModelConfig config =
      with_context([&] { return source.path().string(); }, [&] { return parse_config(source.config()); });
  DecoderWeights weights = load_weights(config, source, options, progress);
  return make_decoder(std::move(config), std::move(weights), options.layer_done);
}

}  // namespace nibble
