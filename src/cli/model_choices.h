#pragma once
#include <CLI/CLI.hpp>
#include <string>

#include "cli/verb.h"
#include "pipeline/loaded_model.h"

namespace nibble::cli {

// The flags of every verb that runs a model: how to load it and how to compute.
struct RunFlags {
  std::string dtype, scheme, quant;
  std::string compute;
  bool check_compute = false;
  std::string kv_cache;

  ModelChoices choices() const;             // throws Error(kUsage)
  ModelChoices choices_for_tokens() const;  // the same for verbs that read the weights again for every token
  // The plan's warnings and what --check-compute found, as messages; the latter as a member of the result. Nothing
  // without the flag.
  void note_load(const LoadedModel& loaded, const Common& common) const;
  void add_checks(const LoadedModel& loaded, OrderedJson& result) const;
  CacheType cache_type() const { return parse_cache_type(kv_cache); }
};

// Adds them; --compute and --kv-cache with these defaults.
void add_run_flags(CLI::App& verb, RunFlags& flags, const std::string& default_compute,
                   const std::string& default_cache);

}  // namespace nibble::cli
