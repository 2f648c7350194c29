#pragma once
#include <CLI/CLI.hpp>
#include <string>

#include "pipeline/loaded_model.h"

namespace nibble::cli {

// The flags of every verb that runs a model: how to load it and how to compute.
struct RunFlags {
  std::string dtype, scheme, quant;
  std::string compute = "fp32";
  std::string kv_cache;

  ModelChoices choices() const;             // throws Error(kUsage)
  ModelChoices choices_for_tokens() const;  // the same for verbs that read the weights again for every token
  CacheType cache_type() const { return parse_cache_type(kv_cache); }
};

// Adds --dtype, --scheme, --quant, --compute and --kv-cache, the last with this default.
void add_run_flags(CLI::App& verb, RunFlags& flags, const std::string& default_cache);

}  // namespace nibble::cli
