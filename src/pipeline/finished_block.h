#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "pipeline/plan.h"
#include "quant/packed_matrix.h"

namespace nibble {

// How well one linear survived, in sums over its elements; outputs are those of the calibration tokens.
struct LayerMeasure {
  double signal = 0, error = 0;                // sum w^2, sum (w - w')^2
  double output_signal = 0, output_error = 0;  // tr(W H W^T), tr(D H D^T), D = w - w'; 0 without a Gram matrix
  double percdamp = 0;                         // damping used; 0 where nothing was factored
  double seconds = 0;                          // of rounding and measuring, summed over threads
  std::string fallback;                        // what was done instead of what was asked for
};

// A block after quantization.
struct FinishedBlock {
  std::map<std::string, PackedMatrix, std::less<>> weights;        // by tensor name
  std::map<std::string, std::vector<float>, std::less<>> vectors;  // norms and biases that took factors
  std::map<std::string, LayerMeasure, std::less<>> measures;       // by tensor name
  std::map<std::string, ActivationSpec, std::less<>> inputs;       // static ones, by tensor name of the linear
  std::map<std::string, float> cache_scales;                       // see OutputModel
};

// `path` appears whole or not at all. Throws Error(kIo).
void save_block(const FinishedBlock& block, const std::filesystem::path& path);
// Codes are views of the file's mapping. Specs and shapes come from the plan. Throws Error(kCorrupt) when the file does
// not fit it.
FinishedBlock load_block(const std::filesystem::path& path, const QuantizePlan& plan);

}  // namespace nibble
