#include "pipeline/self_calibration.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/checked.h"
#include "core/interrupt.h"
#include "core/random.h"
#include "core/threads.h"
#include "kernels/kernels.h"
#include "model/load_tokenizer.h"
#include "pipeline/on_the_fly.h"

namespace nibble {
namespace {

constexpr size_t kSpace = size_t{320} << 20;  // bytes of the keys, values and logits of all texts that grow together
constexpr size_t kInt8Space = size_t{256} << 20;  // bytes that a copy of the weights in int8 may take
constexpr size_t kMostTexts = 128;                // more fill the matrix units no better
constexpr size_t kDrawBlock = 1024;               // logits whose probabilities are summed together

// Bytes of 16 values of a cache: f32, f16, bf16, q8, q4 (the latter two with a scale for each 32).
constexpr size_t kSixteenths[] = {64, 32, 32, 17, 9};

// A token whose share of the softmax's cumulative distribution covers `uniform`, in [0, 1).
TokenId draw(const float* logits, size_t vocab, double uniform) {
  const kernels::Table& k = kernels::active();
  const double total = k.log_sum_exp(logits, vocab);
  if (!std::isfinite(total))
    throw Error(ErrorKind::kCorrupt, "the model's logits are not numbers: its weights are damaged");
  const auto probability = [&](size_t i) { return std::exp(static_cast<double>(logits[i]) - total); };
  double left = uniform;
  for (size_t begin = 0; begin < vocab; begin += kDrawBlock) {
    const size_t size = std::min(kDrawBlock, vocab - begin);
    const double share = std::exp(static_cast<double>(k.log_sum_exp(logits + begin, size)) - total);
    if (left >= share && begin + size < vocab) {
      left -= share;
      continue;
    }
    for (size_t i = begin; i < begin + size; ++i)
      if ((left -= probability(i)) < 0) return static_cast<TokenId>(i);
    left = std::max(left, 0.0);  // the block's sum was rounded differently
  }
  return static_cast<TokenId>(k.argmax(logits, vocab));
}

// Texts that grow together, in equal parts of the whole.
size_t texts_at_once(const ModelConfig& config, const SampleOptions& options) {
  const size_t values = checked_mul(2 * config.layers * config.kv_size(), options.length, "the cache's size");
  const size_t cache = values / 16 * kSixteenths[static_cast<size_t>(options.cache)];
  const size_t most = std::clamp<size_t>(kSpace / (cache + config.vocab_size * sizeof(float)), 1, kMostTexts);
  return ceil_div(options.count, ceil_div(options.count, most));
}

struct Text {
  Random random;
  std::vector<TokenId> tokens;
};

// Grows all `texts` to `length` tokens.
void grow(Model& model, std::span<Text> texts, std::span<const std::unique_ptr<KvCache>> caches, size_t length,
          size_t done, size_t total, Progress& progress) {
  const size_t vocab = model.config().vocab_size;
  std::vector<float> logits(texts.size() * vocab);
  std::vector<TokenId> last(texts.size());
  std::vector<KvCache*> held;
  for (size_t i = 0; i < texts.size(); ++i) {
    caches[i]->truncate(0);
    held.push_back(caches[i].get());
  }
  for (size_t position = 1; position < length; ++position) {
    check_interrupted();
    progress.update(done + texts.size() * position, total, "sampling text from the model");
    for (size_t i = 0; i < texts.size(); ++i) last[i] = texts[i].tokens.back();
    model.forward_batch(last, held, matrix(logits.data(), texts.size(), vocab));
    parallel_for(texts.size(), 1, [&](size_t i, size_t) {
      texts[i].tokens.push_back(draw(logits.data() + i * vocab, vocab, texts[i].random.uniform()));
    });
  }
}

// The fastest arithmetic: int8 where weights are quantized, and a float model that is small is for this purpose;
// bf16 for others.
LoadOptions loading(const Source& source) {
  size_t parameters = 0;
  bool quantized = false;
  for (const auto& tensor : source.tensors()) {
    parameters += element_count(tensor->shape());
    quantized |= tensor->spec().has_value();
  }
  LoadOptions load;
  if (!quantized && parameters <= kInt8Space) {
    QuantizeRequest request;
    request.scheme = "W8A16";
    request.lm_head = request.embedding = TableChoice{false, 8, std::nullopt};
    load = quantize_on_load(source, request, nullptr);
  }
  load.compute = quantized || parameters <= kInt8Space ? Compute::kAuto : Compute::kBf16;
  return load;
}

// The number of the block that a tensor belongs to, "model.layers.N. ...".
std::optional<size_t> block_of(std::string_view name) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  size_t number = 0;
  std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), number);
  return number;
}

}  // namespace

std::vector<std::vector<TokenId>> sample_texts(Model& model, const SampleOptions& options, Progress& progress) {
  const size_t vocab = model.config().vocab_size;
  Random random(options.seed);
  std::vector<Text> texts;  // each has its own generator: more texts leave the first ones as they are
  for (size_t i = 0; i < options.count; ++i) {
    Text& text = texts.emplace_back(Text{Random(random.next()), {}});
    text.tokens.reserve(options.length);
    text.tokens.push_back(options.first.value_or(static_cast<TokenId>(random.next() % vocab)));
  }
  const size_t at_once = texts_at_once(model.config(), options);
  std::vector<std::unique_ptr<KvCache>> caches;
  while (caches.size() < at_once) caches.push_back(model.make_cache(options.length, options.cache));
  for (size_t begin = 0; begin < texts.size(); begin += at_once) {
    const size_t count = std::min(at_once, texts.size() - begin);
    grow(model, std::span(texts).subspan(begin, count), caches, options.length, begin * options.length,
         options.count * options.length, progress);
  }
  std::vector<std::vector<TokenId>> result;
  result.reserve(texts.size());
  for (Text& text : texts) result.push_back(std::move(text.tokens));
  return result;
}

std::vector<std::vector<TokenId>> sample_documents(const Source& source, const CalibrationChoice& choice,
                                                   Progress& progress) {
  LoadOptions load = loading(source);
  const size_t layers = parse_config(source.config()).layers;
  std::vector<std::vector<const StoredTensor*>> parts(layers + 1);  // the last: all that is not of a block
  for (const auto& tensor : source.tensors())
    parts[std::min(layers, block_of(tensor->name()).value_or(layers))].push_back(tensor.get());
  load.layer_done = [&](size_t layer) {
    for (const StoredTensor* tensor : parts[layer]) tensor->release(0, tensor->rows());
  };
  const auto model = Model::load(source, load, progress);
  SampleOptions options{.count = choice.samples, .length = choice.seqlen, .seed = choice.seed};
  if (choice.bos != BosChoice::kNo) options.first = bos_token(choice.bos, source, find_tokenizer(source.path()).get());
  return sample_texts(*model, options, progress);
}

}  // namespace nibble
