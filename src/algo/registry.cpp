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

std::unique_ptr<Algorithm> make_algorithm(std::string_view name, const AlgorithmSettings& settings) {
  std::string known;
  for (const AlgorithmEntry& entry : algorithms()) {
    known += cat(known.empty() ? "" : ", ", entry.name);
    if (entry.name != name) continue;

    AlgorithmSettings complete;
    std::string options;
    for (const AlgorithmOption& option : entry.options) {
      complete.emplace(option.name, option.value);
      options += cat(options.empty() ? "" : ", ", option.name);
    }
    for (const auto& [key, value] : settings) {
      const auto found = complete.find(key);
      if (found == complete.end())
        throw Error(ErrorKind::kUsage, cat(name, " has no option '", key, "'; it has: ", options));
      found->second = value;
    }
    for (const AlgorithmOption& option : entry.options) {
      const double value = complete.find(option.name)->second;
      if (!(value >= option.low && value <= option.high))
        throw Error(ErrorKind::kUsage,
                    cat(name, ".", option.name, " must be in [", option.low, ", ", option.high, "], not ", value));
    }
    return entry.make(complete);
  }
  throw Error(ErrorKind::kUsage, cat("unknown algorithm '", name, "'; known: ", known));
}

}  // namespace nibble
