#pragma once
#include <cstddef>
#include <type_traits>

namespace nibble {

// One pool for the process. `count` threads work in all (1024 at most), the caller included; 0 = one for each physical
// core. Not to be called from within a body of parallel_for; thread_count() may be.
void set_thread_count(size_t count);
size_t thread_count();
// Keeps each thread of the pool on a CPU of its own, the calling one included, in the order of the physical cores, or
// lets go of them again. Takes effect with the next parallel region; without effect where the system refuses.
void pin_threads(bool pin);

namespace detail {
void parallel_for(size_t count, size_t grain, void (*run)(const void* body, size_t begin, size_t end),
                  const void* body);
}

// Calls body(begin, end) for disjoint ranges that cover [0, count), each `grain` long but the last; returns when all
// are done. Neighbours mostly run in the same thread, and the same ones when the call is repeated, so that caches and
// prefetches serve; but which thread runs a range is unspecified, the ranges are not: results do not depend on the
// thread count as long as each range writes its own output. An exception stops further ranges and is rethrown here.
// Allocates nothing. A nested call runs in the calling thread.
template <class Body>
void parallel_for(size_t count, size_t grain, const Body& body) {
  static_assert(std::is_invocable_v<const Body&, size_t, size_t>);
  detail::parallel_for(
      count, grain, [](const void* self, size_t begin, size_t end) { (*static_cast<const Body*>(self))(begin, end); },
      &body);
}

}  // namespace nibble
