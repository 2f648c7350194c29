#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "export/exporter.h"
#include "model/source.h"
#include "pipeline/plan.h"
#include "pipeline/quantize_request.h"

namespace nibble {

// Source::open() for `nibble quantize`: an ONNX model that stays one is taken as it is, whatever it computes. Where the
// request needs calibration it is opened as the decoder that it is, if nibble knows it, unless the request names arrays
// or ONNX Runtime; for other formats it has to be such a decoder.
std::unique_ptr<Source> open_to_quantize(const std::filesystem::path& path, const QuantizeRequest& request,
                                         const std::vector<const ExporterEntry*>& formats);

// The plan for any ONNX graph: products with constant weights are quantized, the last one too unless the request says
// otherwise; tables of Gather with --embedding alone. Patterns match names of nodes. `request` as make_plan() completes
// it; calibration goes through ONNX Runtime. Nothing for other sources; errors as make_plan().
std::optional<QuantizePlan> make_onnx_plan(const Source& source, const QuantizeRequest& request,
                                           const ExporterEntry* format);

// What running the graph of such a plan takes in memory beside its largest weight; 0 when it does not run.
size_t onnx_calibration_bytes(const QuantizePlan& plan, size_t graph_inputs);

}  // namespace nibble
