// What a plan's tensors take on disk, and the run in memory.
#include <algorithm>
#include <limits>
#include <set>

#include "core/checked.h"
#include "core/text.h"
#include "core/threads.h"
#include "pipeline/plan.h"
#include "pipeline/statistics.h"
#include "quant/ggml_blocks.h"
#include "quant/input_collector.h"

namespace nibble {
namespace {

// What streaming the blocks takes: the mapped weights of one block, its quantized form, the widest Gram matrix (half of
// cols^2 doubles; the half-size factor is made from it in place), a chunk of inputs on its way to it, one document's
// activations, and all tokens' inputs of a stage up to the limit. A trainer has the block's weights twice in float, the
// gradient and transposes of one linear, the residual stream of its documents twice and one document's activations.
// With the float model's inputs, all that holds activations is there twice, and their products with the others take a
// whole matrix of floats, first as sums, then as the correction made from them.
size_t stream_bytes(const QuantizePlan& plan) {
  size_t blocks = 0, source = 0, quantized = 0, widest = 0, rows = 0;
  size_t elements = 0, largest = 0, narrowest = std::numeric_limits<size_t>::max(), trained = 0;
  bool gram = false, both = false;
  for (const PlannedTensor& planned : plan.tensors) {
    if (!planned.calibrated || planned.role != TensorRole::kLinear) continue;
    source += planned.bytes_before;
    quantized += planned.bytes_after;
    widest = std::max(widest, planned.source->cols());
    rows = std::max(rows, planned.source->rows());
    blocks += planned.name.ends_with(".o_proj.weight") ? 1 : 0;
    const AlgorithmChain& chain = *plan.algorithms.find(planned.algorithm)->second;
    gram |= chain.input_use() == InputUse::kFactor || !chain.equalizers().empty();
    both |= chain.wants_float_inputs(*planned.spec);
    elements += planned.source->rows() * planned.source->cols();
    largest = std::max(largest, planned.source->rows() * planned.source->cols());
    narrowest = std::min(narrowest, planned.source->cols());
    for (const auto& trainer : chain.trainers()) trained = std::max(trained, trainer->documents());
  }
  blocks = std::max<size_t>(blocks, 1);
  const size_t tokens = plan.calibration->samples * plan.calibration->seqlen;
  trained = std::min(trained, plan.calibration->samples);
  const size_t training =
      trained == 0 ? 0
                   : 8 * (elements / blocks) + 12 * largest +
                         plan.calibration->seqlen * 4 * (2 * trained * narrowest + 12 * std::max(widest, rows));
  const size_t kept = tokens * widest * (plan.stream.bf16 ? 2 : 4) * (both ? 2 : 1);
  // Chunks have a document's tokens, up to kChunk; those of a leaf share a matrix in double.
  const size_t chunks = plan.calibration->samples * ceil_div(plan.calibration->seqlen, InputCollector::kChunk);
  const size_t waiting = waiting_matrices(ceil_div(chunks, InputCollector::kLeafChunks));
  const size_t square = widest * (widest + 1);
  const size_t grams = !gram || tokens == 0 ? 0 : (4 + 2 * waiting) * square + (both ? (8 + 4 * waiting) * square : 0);
  return source / blocks + quantized / blocks + grams + 1200 * widest * (both ? 4 : 2) +
         plan.calibration->seqlen * 4 * (4 * widest + 3 * rows) * (both ? 2 : 1) +
         (kept <= plan.stream.activation_bytes ? kept : 0) + training;
}

// What sampling the calibration text takes: keys, values and logits of the texts that grow together
// (self_calibration.h), and weights: a copy with one byte each of small models, else tables and two blocks of the
// mapped file.
size_t sampling_bytes(const QuantizePlan& plan) {
  constexpr size_t kTexts = size_t{336} << 20;
  constexpr size_t kCopied = size_t{256} << 20;  // parameters
  if (plan.parameters <= kCopied) return kTexts + plan.parameters;
  size_t tables = 0, linears = 0, blocks = 0;
  for (const PlannedTensor& planned : plan.tensors) {
    (planned.role == TensorRole::kLinear ? linears : tables) += planned.bytes_before;
    blocks += planned.name.ends_with(".o_proj.weight") ? 1 : 0;
  }
  return kTexts + tables + 2 * linears / std::max<size_t>(blocks, 1);
}

size_t calibration_bytes(const QuantizePlan& plan) {
  if (!plan.calibration || plan.onnx_runtime) return 0;  // of graphs: onnx_calibration_bytes()
  return plan.calibration->from == "self" && plan.calibration->samples != 0
             ? std::max(stream_bytes(plan), sampling_bytes(plan))
             : stream_bytes(plan);
}

// Resident bytes besides the slices in flight: program, libraries, headers, tokenizer files being copied.
constexpr size_t kBaseBytes = size_t{28} << 20;
// Floats, dequantized floats, codes and what an algorithm needs of its own, for each element of a slice in flight.
constexpr size_t kBytesPerElement = 24;

}  // namespace

OutputTensor output_tensor(const PlannedTensor& planned, const ExporterEntry* format) {
  OutputTensor tensor{planned.name, planned.source->shape(), planned.spec, planned.activations, planned.dtype, false,
                      planned.role, planned.algorithm};
  const bool blocks = format && format->blocks;
  if (planned.action == PlannedTensor::Action::kMoveBlocks) {
    tensor.spec = std::nullopt;
    if (blocks) tensor.dtype = planned.source->block_type().value();
  }
  if (tensor.spec && is_block_type(tensor.spec->scale_dtype) && !blocks) tensor.spec->scale_dtype = DType::kF32;
  if (planned.action == PlannedTensor::Action::kMoveCodes && tensor.rows() > 0)
    tensor.grouped_columns = !planned.source->read_codes(0, 1).group_of.empty();
  return tensor;
}

OutputModel output_model(const Source& source, const QuantizePlan& plan, const ExporterEntry& format) {
  OutputModel model{source,         {},          plan.dtype,          plan.tied_embeddings,
                    plan.embedding, plan.scheme, plan.accuracy_level, plan.tensor_ranges};
  for (const PlannedTensor& planned : plan.tensors) model.tensors.push_back(output_tensor(planned, &format));
  for (const std::string& attention : plan.cached)  // until calibration has found them
    for (const char* scale : {".k_scale", ".v_scale"}) model.cache_scales[attention + scale] = 1;
  return model;
}

void add_sizes(QuantizePlan& plan, const ExporterEntry* format) {
  std::set<const StoredTensor*> counted;
  std::map<std::string, size_t> notes;
  size_t widest = 0;
  for (PlannedTensor& planned : plan.tensors) {
    const OutputTensor output = output_tensor(planned, format);
    if (format) format->check(output);
    if (format && format->note)
      if (const std::string note = format->note(output); !note.empty()) ++notes[note];
    if (counted.insert(planned.source).second) planned.bytes_before = planned.source->bytes();
    planned.bytes_after = format         ? format->stored_bytes(output)
                          : planned.spec ? ceil_div(stored_bits(*planned.spec, output.rows(), output.cols()), 8)
                                         : byte_size(planned.dtype, element_count(output.shape));
    plan.bytes_before += planned.bytes_before;
    plan.bytes_after += planned.bytes_after;
    const size_t zeros =
        planned.spec && !planned.spec->symmetric ? output.rows() * planned.spec->groups(output.cols()) : 0;
    widest = std::max(widest, slice_rows(output.cols()) * output.cols() * kBytesPerElement * thread_count() + zeros);
  }
  plan.bytes_after += 2 * plan.cached.size() * byte_size(plan.dtype, 1);  // scales of keys and values
  for (const auto& [note, count] : notes)
    plan.warnings.push_back(cat(note, " (", count, count == 1 ? " tensor)" : " tensors)"));
  plan.predicted_peak_bytes = kBaseBytes + widest + (format ? 0 : plan.bytes_after) + calibration_bytes(plan);
}

}  // namespace nibble
