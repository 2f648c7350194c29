#include <CLI/CLI.hpp>
#include <iostream>
#include <new>

#include "core/error.h"
#include "core/interrupt.h"
#include "kernels/kernels.h"

namespace nibble::cli {

#define NIBBLE_VERB(name) void add_##name(CLI::App& app);
#include "cli/verbs.def"
#undef NIBBLE_VERB

namespace {

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return 2;
    case ErrorKind::kGate:
      return 3;
    case ErrorKind::kInterrupted:
      return 130;  // what shells report for a program that Ctrl-C ended
    case ErrorKind::kCorrupt:
    case ErrorKind::kUnsupported:
    case ErrorKind::kIo:
      break;
  }
  return 1;
}

int run(int argc, char** argv) {
  CLI::App app("nibble makes large language models small and fast.", "nibble");
  app.set_version_flag("--version", NIBBLE_VERSION);
  app.require_subcommand(1);
#define NIBBLE_VERB(name) add_##name(app);
#include "cli/verbs.def"
#undef NIBBLE_VERB
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
}

}  // namespace
}  // namespace nibble::cli

int main(int argc, char** argv) {
  nibble::install_interrupt_handler();
  try {
    nibble::kernels::active();  // a NIBBLE_ISA that does not fit is refused before any work, where it can be reported
    const int code = nibble::cli::run(argc, argv);
    std::cout.flush();
    if (std::cout) return code;
    std::cerr << "nibble: cannot write to standard output\n";
  } catch (const nibble::Error& error) {
    std::cerr << "nibble: " << error.what() << '\n';
    return nibble::cli::exit_code(error.kind());
  } catch (const std::bad_alloc&) {
    std::cerr << "nibble: out of memory\n";
  } catch (const std::exception& error) {
    std::cerr << "nibble: " << error.what() << '\n';
  }
  return 1;
}
