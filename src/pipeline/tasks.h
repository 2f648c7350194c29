#pragma once
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "core/progress.h"
#include "model/model.h"
#include "model/tokenizer.h"

namespace nibble {

// One multiple-choice question: which continuation of `context` does the model find most likely?
struct TaskItem {
  std::string context;
  std::vector<std::string> choices;
  size_t label = 0;  // index of the right one
};

struct TaskResult {
  std::string name;
  double acc = 0;        // by the log-probability of the choice
  double acc_norm = 0;   // by that divided by the choice's bytes
  double std_error = 0;  // of acc
  size_t n = 0;
};

// One JSON object for each line: {"context": "...", "choices": ["...", ...], "label": 0}. Blank lines are skipped.
// Throws Error(kCorrupt) naming file and line.
std::vector<TaskItem> read_task(const std::filesystem::path& path);

// The schema and scoring of lm-evaluation-harness' multiple-choice tasks. Items longer than `ctx` tokens lose the start
// of their context.
TaskResult run_task(Model& model, const Tokenizer& tokenizer, const std::string& name,
                    const std::vector<TaskItem>& items, size_t ctx, Progress& progress);

}  // namespace nibble
