#include "core/usage.h"

#include <malloc.h>
#include <sys/resource.h>

#include <chrono>

namespace nibble {
namespace {

rusage usage() {
  rusage value{};
  getrusage(RUSAGE_SELF, &value);
  return value;
}

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

}  // namespace

size_t peak_rss_bytes() { return static_cast<size_t>(usage().ru_maxrss) * 1024; }

double cpu_seconds() {
  const rusage value = usage();
  return seconds(value.ru_utime) + seconds(value.ru_stime);
}

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void return_free_memory() noexcept { malloc_trim(0); }

}  // namespace nibble
