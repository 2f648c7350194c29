// The bandwidth that a loop over weights can hope for: reads BYTES of memory on 2 MiB pages from end to end, as often
// as asked, and prints the gigabytes per second of each time as a JSON list.
//   read_bandwidth THREADS BYTES [TIMES]
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>

#include "core/threads.h"
#include "core/usage.h"
#include "core/weight_memory.h"

namespace {

using Vector = uint64_t __attribute__((vector_size(64)));

// Whole vectors only; eight sums, so that nothing waits for an addition.
uint64_t sum(const std::byte* from, size_t bytes) {
  Vector sums[8] = {};
  for (size_t i = 0; i + sizeof sums <= bytes; i += sizeof sums)
    for (size_t k = 0; k < 8; ++k) sums[k] ^= *reinterpret_cast<const Vector*>(from + i + k * sizeof(Vector));
  uint64_t out = 0;
  for (const Vector& v : sums)
    for (size_t i = 0; i < 8; ++i) out ^= v[i];
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace nibble;
  if (argc < 3) {
    std::cerr << "read_bandwidth THREADS BYTES [TIMES]\n";
    return 2;
  }
  const size_t threads = std::strtoull(argv[1], nullptr, 10), bytes = std::strtoull(argv[2], nullptr, 10);
  const size_t times = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 5;
  set_thread_count(threads);
  const auto memory = weight_memory(bytes);
  std::memset(memory.get(), 1, bytes);
  constexpr size_t kRange = size_t{1} << 20;
  uint64_t seen = 0;
  std::cout << "[";
  for (size_t i = 0; i <= times; ++i) {
    const double start = wall_seconds();
    parallel_for(bytes, kRange, [&](size_t begin, size_t end) {
      const uint64_t part = sum(memory.get() + begin, end - begin);
      __atomic_fetch_xor(&seen, part, __ATOMIC_RELAXED);
    });
    const double rate = static_cast<double>(bytes) / (wall_seconds() - start) / 1e9;
    if (i > 0) std::cout << (i > 1 ? ", " : "") << rate;  // the first time wakes the threads
  }
  std::cout << "]\n";
  return seen == 1 ? 1 : 0;  // the sum is used; it is never 1
}
