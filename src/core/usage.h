#pragma once
#include <cstddef>

namespace nibble {

// Of this process since it started, from getrusage.
size_t peak_rss_bytes();
double cpu_seconds();  // user + system, all threads
// Monotonic clock.
double wall_seconds();

// Memory that was freed goes back to the system, as far as the allocator can: for places where much was.
void return_free_memory() noexcept;

}  // namespace nibble
