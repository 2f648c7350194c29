#pragma once
#include <string>
#include <vector>

#include "core/regex.h"
#include "pipeline/quantize_request.h"

namespace nibble {

// --skip and --rule, compiled; remembers which patterns ever matched. All throw Error(kUsage) for a broken pattern.
class ModuleRules {
 public:
  ModuleRules(const std::vector<std::string>& skip, const std::vector<Rule>& rules);

  // The pattern that skips the module, or null.
  const std::string* skipped(const std::string& module);
  // The last rule that matches, or null.
  const Rule* rule(const std::string& module);
  // Does rule `rule` match any of `modules`?
  bool matches_any(const Rule& rule, const std::vector<std::string>& modules) const;
  // "--skip 'x' matches no module" for every pattern that never matched.
  std::vector<std::string> unmatched() const;

 private:
  struct Pattern {
    std::string flag;  // "--skip"
    std::string text;
    Regex regex;
    bool used = false;
  };
  std::vector<Rule> rules_;
  std::vector<std::string> skip_;
  std::vector<Pattern> skip_patterns_;
  std::vector<Pattern> rule_patterns_;
};

}  // namespace nibble
