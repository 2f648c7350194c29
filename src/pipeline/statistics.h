#pragma once
#include "core/progress.h"
#include "formats/imatrix.h"
#include "model/source.h"
#include "pipeline/calibration_data.h"
#include "pipeline/plan.h"

namespace nibble {

// The mean squares of the inputs of every linear, one block in memory at a time; the model as it is, nothing quantized.
// `bf16`: arithmetic of products. The result does not depend on the thread count.
Imatrix collect_statistics(const Source& source, const CalibrationData& data, bool bf16, Progress& progress);

// The entries of `imatrix` for tensors of `source`, by its names. Throws Error(kUsage) when an entry's width is not the
// tensor's, or nothing fits: the statistics are of another model.
std::map<std::string, InputFactor, std::less<>> importance_of(const Imatrix& imatrix, const Source& source);

}  // namespace nibble
