#include "pipeline/on_the_fly.h"

#include "core/files.h"
#include "core/interrupt.h"
#include "core/threads.h"
#include "pipeline/calibrated_run.h"
#include "pipeline/calibration_data.h"
#include "pipeline/plan.h"
#include "pipeline/row_slices.h"

namespace nibble {
namespace {

WeightMatrix quantize_weight(const QuantizePlan& plan, const PlannedTensor& planned) {
  const AlgorithmChain& algorithm = *plan.algorithms.find(planned.algorithm)->second;
  const StoredTensor& source = *planned.source;
  const auto range = planned.spec->per_tensor ? tensor_range(source) : std::pair{0.0f, 0.0f};
  PackedMatrixBuilder builder(*planned.spec, source.rows(), source.cols());
  std::vector<RowSlice> slices;
  append_slices(0, source, slices);
  const auto add = [&](const RowSlice& slice) {
    check_interrupted();
    const std::vector<float> weights = read_finite(source, slice.begin, slice.end);
    const MatrixView<const float> view = matrix(weights.data(), slice.end - slice.begin, source.cols());
    builder.add(slice.begin, algorithm.quantize({view, *planned.spec, range, plan.inputs_of(planned.name)}));
    source.release(slice.begin, slice.end);
  };
  parallel_for(slices.size(), 1, [&](size_t first, size_t last) {
    for (size_t i = first; i < last; ++i) add(slices[i]);
  });
  WeightMatrix weight(builder.finish());
  weight.activations = planned.activations;
  return weight;
}

CalibratedTensors calibrate(const Source& source, const QuantizePlan& plan, Progress& progress) {
  for (const auto& [names, chain] : plan.algorithms)
    if (chain->prepares())
      throw Error(ErrorKind::kUsage, cat(names, " changes norms too; write the model with `nibble quantize`"));
  const TemporaryFolder work;  // the codes stay mapped when it is gone
  const CalibrationData data = load_calibration(source, *plan.calibration, progress);
  return quantize_blocks(source, plan, data.documents, plan.stream, work.path(), progress);
}

}  // namespace

LoadOptions quantize_on_load(const Source& source, const QuantizeRequest& request, std::vector<std::string>* warnings,
                             Progress& progress) {
  const auto plan = std::make_shared<const QuantizePlan>(make_plan(source, request, nullptr));
  if (warnings) *warnings = plan->warnings;
  const auto calibrated = std::make_shared<CalibratedTensors>();
  if (plan->calibration) *calibrated = calibrate(source, *plan, progress);
  LoadOptions options;
  options.dtype = request.dtype;
  options.replace = [plan, calibrated](const StoredTensor& tensor) -> std::optional<WeightMatrix> {
    for (const PlannedTensor& planned : plan->tensors) {
      if (planned.source != &tensor || planned.action != PlannedTensor::Action::kQuantize) continue;
      if (planned.calibrated) {
        WeightMatrix weight(calibrated->weights.find(planned.name)->second);
        const auto inputs = calibrated->inputs.find(planned.name);
        weight.activations = inputs == calibrated->inputs.end() ? planned.activations : inputs->second;
        return weight;
      }
      return with_context([&] { return planned.name; }, [&] { return quantize_weight(*plan, planned); });
    }
    return std::nullopt;
  };
  return options;
}

}  // namespace nibble
