#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace nibble {

// A condition under which a run counts as failed, as --fail-if takes it: "kld.mean>0.05", "layers.0.weight_sqnr_db<10".
// A path into the result's JSON (keys and array indices between dots), one of < <= > >= == !=, a number.
class Gate {
 public:
  // Throws Error(kUsage) showing the expected form.
  static Gate parse(std::string_view text);
  // "'kld.mean>0.05' (it is 0.07)" when the run failed. A value that is not a finite number fails too: a NaN must not
  // slip through a comparison. Throws Error(kUsage) when the result has nothing at that path, naming what is there
  // instead.
  std::optional<std::string> failure(const OrderedJson& result) const;

 private:
  std::string text_;
  std::vector<std::string> path_;
  std::string comparison_;
  double limit_ = 0;
};

// All of `texts`, so that a misspelt gate is found before the work.
std::vector<Gate> parse_gates(const std::vector<std::string>& texts);
// Throws Error(kGate) listing every gate that fails.
void check_gates(const std::vector<Gate>& gates, const OrderedJson& result);

}  // namespace nibble
