#pragma once
#include <cstddef>

namespace nibble {

// Of this process since it started, from getrusage.
size_t peak_rss_bytes();
double cpu_seconds();  // user + system, all threads
// Monotonic clock.
double wall_seconds();

}  // namespace nibble
