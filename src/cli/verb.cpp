#include "cli/verb.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <iostream>

#include "core/files.h"
#include "core/interrupt.h"
#include "core/text.h"
#include "core/threads.h"
#include "core/usage.h"

namespace nibble::cli {
namespace {

std::string duration(double seconds) {
  const auto whole = std::lround(seconds);
  if (whole < 60) return cat(whole, " s");
  if (whole < 3600) return cat(whole / 60, " min ", whole % 60, " s");
  return cat(whole / 3600, " h ", whole % 3600 / 60, " min");
}

class Bar final : public Progress {
 public:
  explicit Bar(std::string title)
      : title_(std::move(title)), terminal_(isatty(STDERR_FILENO) == 1), start_(wall_seconds()), shown_(start_) {}
  ~Bar() override {
    if (drawn_) std::cerr << "\r\033[K" << std::flush;
  }
  void update(size_t done, size_t total, std::string_view what) override {
    const double now = wall_seconds();
    // A bar that redraws more often than the eye follows only costs time; a log wants a line now and then.
    if (now - shown_ < (terminal_ ? 0.1 : 10.0)) return;
    shown_ = now;
    const double share = total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total);
    const double elapsed = now - start_;
    const std::string eta = share > 0.01 ? cat(", ", duration(elapsed / share - elapsed), " left") : "";
    const auto percent = static_cast<int>(share * 100);
    if (!terminal_) {
      std::cerr << title_ << ": " << percent << " %" << eta << " (" << what << ")\n";
      return;
    }
    constexpr size_t kWidth = 24;
    const auto filled = static_cast<size_t>(share * kWidth);
    drawn_ = true;
    std::cerr << '\r' << title_ << " [" << std::string(filled, '#')
              << std::string(kWidth - std::min(filled, kWidth), '.') << "] " << percent << " %" << eta << "  " << what
              << "\033[K" << std::flush;
  }

 private:
  std::string title_;
  bool terminal_;
  bool drawn_ = false;
  double start_;
  double shown_;
};

}  // namespace

void Common::apply() const {
  set_thread_count(threads);
  if (pin) pin_threads(true);
}

void Common::emit(const OrderedJson& result) const {
  if (json.empty()) return;
  // Text that a model sampled may end inside a character: replace instead of failing at the very end.
  const std::string text = result.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
  if (json == "-")
    std::cout << text << std::flush;
  else
    write_text_file(json, text);
}

std::unique_ptr<Progress> Common::progress(const std::string& title) const {
  struct Silent final : Progress {
    void update(size_t, size_t, std::string_view) override {}
  };
  if (quiet) return std::make_unique<Silent>();
  return std::make_unique<Bar>(title);
}

void Common::note(const std::string& line) const {
  if (!quiet) std::cerr << line << '\n';
}

CLI::App& add_verb(CLI::App& app, const std::string& name, const std::string& summary, const std::string& examples,
                   std::shared_ptr<Common> common) {
  CLI::App& verb = *app.add_subcommand(name, summary);
  verb.footer("\nExamples:\n" + examples);
  verb.add_option("--threads", common->threads, "threads to use (0: one for each physical core)")
      ->capture_default_str();
  verb.add_flag("--pin", common->pin, "keep each thread on a core of its own");
  verb.add_flag("--quiet", common->quiet, "no progress, no messages");
  verb.add_option("--json", common->json, "write the result as JSON to FILE, or to stdout with -")->type_name("FILE|-");
  return verb;
}

}  // namespace nibble::cli
