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
#include "kernels/target.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__x86_64__)
NIBBLE_TARGET_BEGIN("avx2")
namespace {

// Whole lines only. Eight sums, so that nothing waits for another; asks for lines 8 KiB ahead, as the kernels do.
uint64_t sum_avx2(const std::byte* from, size_t bytes) {
  __m256i sums[8] = {};
  for (size_t i = 0; i + sizeof sums <= bytes; i += sizeof sums) {
    NIBBLE_UNROLL
    for (size_t k = 0; k < 8; k += 2)
      _mm_prefetch(reinterpret_cast<const char*>(from + i + 8192 + 32 * k), _MM_HINT_T1);
    NIBBLE_UNROLL
    for (size_t k = 0; k < 8; ++k)
      sums[k] = _mm256_xor_si256(sums[k], _mm256_load_si256(reinterpret_cast<const __m256i*>(from + i + 32 * k)));
  }
  uint64_t words[4], out = 0;
  for (const __m256i& v : sums) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), v);
    out ^= words[0] ^ words[1] ^ words[2] ^ words[3];
  }
  return out;
}

}  // namespace
NIBBLE_TARGET_END
#endif

namespace {

uint64_t sum_words(const std::byte* from, size_t bytes) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + sizeof sums <= bytes; i += sizeof sums)
    for (size_t k = 0; k < 8; ++k) sums[k] ^= *reinterpret_cast<const uint64_t*>(from + i + 8 * k);
  uint64_t out = 0;
  for (const uint64_t word : sums) out ^= word;
  return out;
}

uint64_t sum(const std::byte* from, size_t bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return sum_avx2(from, bytes);
#endif
  return sum_words(from, bytes);
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
