#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/progress.h"
#include "pipeline/plan.h"

namespace nibble {

// How well one weight survived.
struct LayerReport {
  std::string name;  // module
  QuantSpec spec;
  std::string algorithm;
  double weight_sqnr_db = 0;  // 10 log10(sum w^2 / sum (w - w')^2), within [-200, 200]; 200 is exact
  double output_error = 0;    // sum (w - w')^2 / sum w^2: that of the output for white inputs
  std::string fallback;
};

struct QuantizeResult {
  std::vector<LayerReport> layers;  // in the plan's order, quantized ones only
  size_t bytes = 0;                 // of all tensors written, in the first format
  double bits_per_weight = 0;
  double seconds = 0, cpu_seconds = 0;
  size_t peak_rss_bytes = 0;
};

// "hf" or "hf,fake". Throws Error(kUsage) for unknown names and repetitions.
std::vector<const ExporterEntry*> parse_formats(const std::string& text);

// Carries out a plan: tensors are read, quantized and written in slices of rows, in parallel, so that memory does not
// grow with the model. One format: `out` is its folder; several: `out` holds one folder for each, named after it.
// Nothing is at `out` before everything is written, or ever when this throws: kUsage for an existing `out` without
// `force`, kCorrupt for NaN or infinite weights (tensor, row, column), kInterrupted, kIo. The bytes do not depend on
// the thread count.
QuantizeResult run_plan(const Source& source, const QuantizePlan& plan,
                        const std::vector<const ExporterEntry*>& formats, const std::filesystem::path& out, bool force,
                        Progress& progress = no_progress());

// The JSON result of `nibble quantize`.
OrderedJson to_json(const QuantizeResult& result, const QuantizePlan& plan);
// What was done, for people: sizes, bits per weight, worst layers, what was kept and why.
std::string summary(const QuantizeResult& result, const QuantizePlan& plan);

}  // namespace nibble
