#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/progress.h"
#include "pipeline/calibration_data.h"
#include "pipeline/plan.h"

namespace nibble {

// How well one weight survived.
struct LayerReport {
  std::string name;  // module
  QuantSpec spec;
  std::string algorithm;
  double weight_sqnr_db = 0;  // 10 log10(sum w^2 / sum (w - w')^2), within [-200, 200]; 200 is exact
  // tr(D H D^T) / tr(W H W^T), D = w - w': what rounding did to the outputs on the calibration tokens; without them
  // that of white inputs, sum (w - w')^2 / sum w^2.
  double output_error = 0;
  double percdamp = 0;  // damping of H, as a fraction of its mean diagonal; 0 where it was not factored
  double seconds = 0;   // that rounding took, summed over threads; 0 without calibration
  std::string fallback;
};

struct QuantizeResult {
  std::vector<LayerReport> layers;  // in the plan's order, quantized ones only
  size_t bytes = 0;                 // of all tensors written, in the first format
  double bits_per_weight = 0;
  double seconds = 0, cpu_seconds = 0;
  size_t peak_rss_bytes = 0;
  std::optional<CalibrationData> calibration;
};

struct RunOptions {
  bool force = false;   // replace what is at OUT
  bool resume = false;  // continue what an interrupted run with calibration left at OUT.partial, if it left anything
};

// "hf", "hf,fake" or "gguf:Q4_K_M": see scheme_in_formats(). Throws Error(kUsage) for unknown names and repetitions.
std::vector<const ExporterEntry*> parse_formats(const std::string& text);
// The type of scales that one of them asks for: all get it. Throws Error(kUsage) when two ask for different ones.
std::optional<DType> common_scale_dtype(const std::vector<const ExporterEntry*>& formats);

// What follows a format's name: a scheme that only it has. Nothing when there is none. Throws Error(kUsage) for unknown
// ones, and for formats without schemes of their own.
std::optional<std::string> scheme_in_formats(const std::string& text);

// Carries out a plan: tensors are read, quantized and written in slices of rows, in parallel, so that memory does not
// grow with the model; those of the blocks with calibration go through quantize_blocks(). One format: `out` is its
// folder; several: `out` holds one folder for each, named after it. Nothing is at `out` before everything is written,
// or ever when this throws: kUsage for an existing `out` without `force`, kCorrupt for NaN or infinite weights (tensor,
// row, column), kInterrupted, kIo. With calibration OUT.partial then stays for `resume`. The bytes do not depend on the
// thread count.
QuantizeResult run_plan(const Source& source, const QuantizePlan& plan,
                        const std::vector<const ExporterEntry*>& formats, const std::filesystem::path& out,
                        const RunOptions& options = {}, Progress& progress = no_progress());

// The JSON result of `nibble quantize`.
OrderedJson to_json(const QuantizeResult& result, const QuantizePlan& plan);
// What was done, for people: sizes, bits per weight, worst layers, what was kept and why.
std::string summary(const QuantizeResult& result, const QuantizePlan& plan);

}  // namespace nibble
