#pragma once
#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "core/json.h"
#include "core/progress.h"

namespace nibble::cli {

// Flags every verb has. Lives as long as the program.
struct Common {
  size_t threads = 0;
  bool pin = false, quiet = false;
  std::string json;  // "", "-" or a file

  // Sets the thread count and pins the threads; call first in a verb's callback.
  void apply() const;
  // May human-readable results go to stdout? Not when stdout carries the JSON.
  bool prints() const { return json != "-"; }
  // Writes the machine-readable result where --json asked for it; nothing when it did not.
  void emit(const OrderedJson& result) const;
  // A bar on stderr when it is a terminal, a line every few seconds when it is not, nothing with --quiet.
  std::unique_ptr<Progress> progress(const std::string& title) const;
  // A line on stderr, unless --quiet.
  void note(const std::string& line) const;
};

// Adds a subcommand with the common flags; `examples` ends its --help. The verb then adds options bound to state that
// it keeps alive by capturing a shared_ptr in the callback it returns to `run`.
CLI::App& add_verb(CLI::App& app, const std::string& name, const std::string& summary, const std::string& examples,
                   std::shared_ptr<Common> common);

}  // namespace nibble::cli
