#pragma once
#include <filesystem>
#include <memory>

#include "core/progress.h"
#include "pipeline/calibrated_run.h"
#include "pipeline/calibration_data.h"

namespace nibble {

class OnnxRuntime;

struct CalibratedGraph {
  CalibratedTensors tensors;
  CalibrationData data;
};

// As quantize_blocks(), for products of an ONNX graph of any kind: `plan.onnx_runtime` is set. ONNX Runtime runs the
// graph on the calibration data, cut into steps that end where the inputs of products are known (model/onnx_steps.h).
// Products of a step are rounded before it runs, so that what follows them sees what they became. A weight that
// products of several steps share is rounded for the inputs that all of them have in the float graph; so are all with
// true_sequential off. `work`: a folder for values that wait for later steps. The result does not depend on the thread
// count but for what ONNX Runtime makes of it. Throws as run_plan(), OnnxRuntime and load_onnx_feeds().
CalibratedGraph quantize_graph(const Source& source, const QuantizePlan& plan, const std::filesystem::path& work,
                               Progress& progress);
// The same with a runtime that is open already.
CalibratedGraph quantize_graph(const Source& source, const QuantizePlan& plan,
                               const std::shared_ptr<const OnnxRuntime>& runtime, const std::filesystem::path& work,
                               Progress& progress);

}  // namespace nibble
