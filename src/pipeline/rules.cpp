#include "pipeline/rules.h"

#include "core/error.h"

namespace nibble {
namespace {

Regex compile(std::string_view flag, const std::string& text, const std::string& pattern) {
  return with_context([&] { return cat(flag, " '", text, "'"); }, [&] { return Regex(pattern); });
}

}  // namespace

ModuleRules::ModuleRules(const std::vector<std::string>& skip, const std::vector<Rule>& rules)
    : rules_(rules), skip_(skip) {
  for (const std::string& text : skip_) skip_patterns_.push_back({"--skip", text, compile("--skip", text, text)});
  for (const Rule& rule : rules_)
    rule_patterns_.push_back({"--rule", rule.text, compile("--rule", rule.text, rule.pattern)});
}

const std::string* ModuleRules::skipped(const std::string& module) {
  const std::string* found = nullptr;
  for (size_t i = 0; i < skip_patterns_.size(); ++i) {
    if (!skip_patterns_[i].regex.matches_prefix(module)) continue;
    skip_patterns_[i].used = true;
    found = &skip_[i];
  }
  return found;
}

const Rule* ModuleRules::rule(const std::string& module) {
  const Rule* found = nullptr;
  for (size_t i = 0; i < rule_patterns_.size(); ++i) {
    if (!rule_patterns_[i].regex.matches_prefix(module)) continue;
    rule_patterns_[i].used = true;
    found = &rules_[i];
  }
  return found;
}

bool ModuleRules::matches_any(const Rule& rule, const std::vector<std::string>& modules) const {
  const Regex& regex = rule_patterns_[static_cast<size_t>(&rule - rules_.data())].regex;
  for (const std::string& module : modules)
    if (regex.matches_prefix(module)) return true;
  return false;
}

std::vector<std::string> ModuleRules::unmatched() const {
  std::vector<std::string> lines;
  for (const auto* patterns : {&skip_patterns_, &rule_patterns_})
    for (const Pattern& pattern : *patterns)
      if (!pattern.used) lines.push_back(cat(pattern.flag, " '", pattern.text, "' matches no module"));
  return lines;
}

}  // namespace nibble
