#pragma once
#include <map>
#include <set>
#include <string>

#include "export/onnx_form.h"

namespace nibble {

// Puts nodes in the place of others. Where two replacements make the same new value, the first one does it for both.
// New names that the graph has for something else get a '_'.
class OnnxSplice {
 public:
  // `index`: of the graph before any change. `taken`: other names that are in use.
  OnnxSplice(const OnnxGraphIndex& index, std::set<std::string> taken) : index_(index), taken_(std::move(taken)) {}

  // `replacement` for node `i` of the graph; each node once.
  void replace(int i, OnnxReplacement replacement) { replacements_.emplace(i, std::move(replacement)); }
  // Changes the graph, whose nodes are those of the index. Returns bytes of the constants added. Throws Error(kUsage)
  // when two constants of one name differ: the same values were to be rounded in two ways.
  size_t apply(onnx::GraphProto& graph);

 private:
  std::string final_name(const std::string& name);

  const OnnxGraphIndex& index_;
  std::set<std::string> taken_;
  std::map<std::string, std::string> final_;  // of new names
  std::map<int, OnnxReplacement> replacements_;
};

}  // namespace nibble
