#pragma once
#include <filesystem>
#include <vector>

#include "core/progress.h"
#include "model/onnx_source.h"
#include "model/onnx_step_runner.h"
#include "pipeline/calibration_choice.h"
#include "pipeline/calibration_data.h"

namespace nibble {

// Does this say arrays rather than text: a .npz file, or a folder?
bool names_feeds(const std::filesystem::path& path);

// Throws Error(kUsage) for what load_onnx_feeds() refuses before it reads anything: `self`, and text for a graph that
// takes no tokens.
void check_onnx_feeds(const OnnxSource& source, const CalibrationChoice& choice);

// What an ONNX graph is calibrated on.
struct OnnxFeeds {
  std::vector<OnnxFeed> samples;  // one run of the graph each, at least one
  CalibrationData data;           // for people; with the documents of a text
};

// Loads the inputs of a graph that `choice` names:
//   .npz    arrays named as the graph's inputs: one run, or, where the graph calls the first dimension of all inputs
//           "batch...", one for each index of it, of which the first `samples` are taken
//   folder  its .npz files in the order of their names
//   others  token ids or text as load_calibration() reads them, for graphs with input_ids and at most attention_mask,
//           token_type_ids, position_ids and past keys and values (past..., four dimensions), which stay empty
// Numbers are converted to the types of the graph's inputs. Throws Error(kUsage) for inputs that are missing or that
// the graph does not have, for `self`, and as load_calibration(); Error(kCorrupt), Error(kUnsupported) as parse_npz()
// and for numbers that do not fit. Errors name the file and the array.
OnnxFeeds load_onnx_feeds(const OnnxSource& source, const CalibrationChoice& choice, Progress& progress);

}  // namespace nibble
