#include "core/interrupt.h"

#include <atomic>
#include <csignal>

#include "core/error.h"

namespace nibble {
namespace {

std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set from a signal handler");

}  // namespace

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = [](int) { stop_requested = true; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // the second Ctrl-C finds the default action
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

void forget_interrupt() {
  if (stop_requested.exchange(false)) install_interrupt_handler();
}

bool interrupted() noexcept { return stop_requested; }

void check_interrupted() {
  if (stop_requested) throw Error(ErrorKind::kInterrupted, "interrupted");
}

}  // namespace nibble
