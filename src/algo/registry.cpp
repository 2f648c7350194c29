#include "algo/algorithm.h"
#include "core/error.h"

namespace nibble {

#define NIBBLE_ALGORITHM(id) extern const AlgorithmEntry id##_algorithm;
#include "algo/algorithms.def"
#undef NIBBLE_ALGORITHM

std::span<const AlgorithmEntry> algorithms() {
  static const AlgorithmEntry entries[] = {
#define NIBBLE_ALGORITHM(id) id##_algorithm,
#include "algo/algorithms.def"
#undef NIBBLE_ALGORITHM
  };
  return entries;
}

const AlgorithmEntry& find_algorithm(std::string_view name) {
  std::string known;
  for (const AlgorithmEntry& entry : algorithms()) {
    if (entry.name == name) return entry;
    known += cat(known.empty() ? "" : ", ", entry.name);
  }
  throw Error(ErrorKind::kUsage, cat("unknown algorithm '", name, "'; known: ", known));
}

AlgorithmSettings complete_settings(const AlgorithmEntry& entry, const AlgorithmSettings& settings) {
  AlgorithmSettings complete;
  std::string options;
  for (const AlgorithmOption& option : entry.options) {
    complete.emplace(option.name, option.value);
    options += cat(options.empty() ? "" : ", ", option.name);
  }
  for (const auto& [key, value] : settings) {
    const auto found = complete.find(key);
    if (found == complete.end())
      throw Error(ErrorKind::kUsage, cat(entry.name, " has no option '", key, "'; it has: ", options));
    found->second = value;
  }
  for (const AlgorithmOption& option : entry.options) {
    const double value = complete.find(option.name)->second;
    if (!(value >= option.low && value <= option.high))
      throw Error(ErrorKind::kUsage,
                  cat(entry.name, ".", option.name, " must be in [", option.low, ", ", option.high, "], not ", value));
  }
  return complete;
}

std::unique_ptr<Algorithm> make_algorithm(std::string_view name, const AlgorithmSettings& settings) {
  const AlgorithmEntry& entry = find_algorithm(name);
  if (!entry.make) throw Error(ErrorKind::kUsage, cat(name, " does not round by itself; name an algorithm behind it"));
  return entry.make(complete_settings(entry, settings));
}

}  // namespace nibble
