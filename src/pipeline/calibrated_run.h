#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/progress.h"
#include "model/tokenizer.h"
#include "pipeline/finished_block.h"
#include "pipeline/plan.h"
#include "pipeline/stream_options.h"

namespace nibble {

// What streaming leaves behind: the quantized linears and changed vectors of all blocks, views of the work folder.
struct CalibratedTensors {
  std::map<std::string, PackedMatrix, std::less<>> weights;
  std::map<std::string, std::vector<float>, std::less<>> vectors;
  std::map<std::string, LayerMeasure, std::less<>> measures;
  std::map<std::string, ActivationSpec, std::less<>> inputs;             // static ones, by tensor name of the linear
  std::map<std::string, std::vector<float>, std::less<>> input_factors;  // see OutputTensor; by tensor name
  std::map<std::string, float> cache_scales;                             // see OutputModel
};

// Quantizes the linears of the blocks one block at a time: run the calibration tokens, collect what the algorithms ask
// for, equalize, round, run the quantized block for the next one's inputs, write, release. `work` is a folder that
// keeps finished blocks and the residual stream: a run that finds some continues behind them and gives the same bytes.
// The documents are those of the first run (see pipeline/journal.h). The result does not depend on the thread count.
// Throws as run_plan().
CalibratedTensors quantize_blocks(const Source& source, const QuantizePlan& plan,
                                  const std::vector<std::vector<TokenId>>& documents, const StreamOptions& options,
                                  const std::filesystem::path& work, Progress& progress);

}  // namespace nibble
