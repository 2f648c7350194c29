#include "pipeline/on_the_fly.h"

#include "core/interrupt.h"
#include "core/threads.h"
#include "pipeline/plan.h"
#include "pipeline/row_slices.h"

namespace nibble {
namespace {

WeightMatrix quantize_weight(const PlannedTensor& planned, const AlgorithmChain& algorithm) {
  const StoredTensor& source = *planned.source;
  const auto range = planned.spec->per_tensor ? tensor_range(source) : std::pair{0.0f, 0.0f};
  PackedMatrixBuilder builder(*planned.spec, source.rows(), source.cols());
  std::vector<RowSlice> slices;
  append_slices(0, source, slices);
  const auto add = [&](const RowSlice& slice) {
    check_interrupted();
    const std::vector<float> weights = read_finite(source, slice.begin, slice.end);
    const MatrixView<const float> view = matrix(weights.data(), slice.end - slice.begin, source.cols());
    builder.add(slice.begin, algorithm.quantize({view, *planned.spec, range}));
    source.release(slice.begin, slice.end);
  };
  parallel_for(slices.size(), 1, [&](size_t first, size_t last) {
    for (size_t i = first; i < last; ++i) add(slices[i]);
  });
  WeightMatrix weight(builder.finish());
  weight.activations = planned.activations;
  return weight;
}

}  // namespace

LoadOptions quantize_on_load(const Source& source, const QuantizeRequest& request, std::vector<std::string>* warnings) {
  const auto plan = std::make_shared<const QuantizePlan>(make_plan(source, request, nullptr));
  if (warnings) *warnings = plan->warnings;
  LoadOptions options;
  options.dtype = request.dtype;
  options.replace = [plan](const StoredTensor& tensor) -> std::optional<WeightMatrix> {
    for (const PlannedTensor& planned : plan->tensors) {
      if (planned.source != &tensor || planned.action != PlannedTensor::Action::kQuantize) continue;
      return with_context([&] { return planned.name; },
                          [&] { return quantize_weight(planned, *plan->algorithms.find(planned.algorithm)->second); });
    }
    return std::nullopt;
  };
  return options;
}

}  // namespace nibble
