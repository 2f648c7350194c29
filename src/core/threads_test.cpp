#include "core/threads.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <cmath>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "core/test_errors.h"

namespace nibble {
namespace {

class Threads : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override { set_thread_count(GetParam()); }
  void TearDown() override { set_thread_count(0); }
};

TEST_P(Threads, RangesTileTheWork) {
  EXPECT_EQ(thread_count(), GetParam());
  for (const size_t count : {0u, 1u, 2u, 7u, 64u, 1000u})
    for (const size_t grain : {0u, 1u, 3u, 64u, 5000u}) {
      std::vector<std::atomic<int>> hits(count);
      parallel_for(count, grain, [&](size_t begin, size_t end) {
        const size_t step = std::max<size_t>(grain, 1);
        EXPECT_EQ(begin % step, 0u);
        EXPECT_EQ(end, std::min(begin + step, count));
        for (size_t i = begin; i < end; ++i) ++hits[i];
      });
      for (const auto& hit : hits) ASSERT_EQ(hit, 1) << count << " " << grain;
    }
}

TEST_P(Threads, ResultsDoNotDependOnTheCount) {
  const auto sum = [] {
    std::vector<float> parts(100);
    parallel_for(100'000, 1000, [&](size_t begin, size_t end) {
      float part = 0;
      for (size_t i = begin; i < end; ++i) part += std::sqrt(static_cast<float>(i));
      parts[begin / 1000] = part;
    });
    float total = 0;
    for (const float part : parts) total += part;
    return total;
  };
  const float here = sum();
  set_thread_count(1);
  EXPECT_EQ(here, sum());
}

TEST_P(Threads, ExceptionsReachTheCallerAndLeaveThePoolUsable) {
  for (int round = 0; round < 20; ++round) {
    std::atomic<size_t> ran{0};
    EXPECT_EQ(error_text([&] {
                parallel_for(10'000, 1, [&](size_t begin, size_t) {
                  if (begin == 17) throw Error(ErrorKind::kCorrupt, "number 17");
                  ++ran;
                });
              }),
              "number 17");
    EXPECT_LT(ran, 10'000u);
    std::atomic<size_t> after{0};
    parallel_for(100, 1, [&](size_t, size_t) { ++after; });
    EXPECT_EQ(after, 100u);
  }
}

TEST_P(Threads, NestedCallsRunInTheCallingThread) {
  std::atomic<size_t> total{0};
  std::atomic<bool> moved{false};
  parallel_for(64, 1, [&](size_t, size_t) {
    EXPECT_EQ(thread_count(), GetParam());  // asking is allowed inside
    const auto self = std::this_thread::get_id();
    parallel_for(50, 1, [&](size_t, size_t) {
      ++total;
      if (std::this_thread::get_id() != self) moved = true;
    });
  });
  EXPECT_EQ(total, 64u * 50u);
  EXPECT_FALSE(moved);
}

TEST_P(Threads, ManyShortRegions) {
  size_t total = 0;
  for (int i = 0; i < 1000; ++i) {
    std::atomic<size_t> here{0};
    parallel_for(8, 1, [&](size_t begin, size_t) { here += begin; });
    total += here;
  }
  EXPECT_EQ(total, 1000u * 28u);
}

TEST_P(Threads, CallersMayBeThreadsThemselves) {
  std::atomic<size_t> total{0};
  {
    std::vector<std::jthread> callers;
    callers.reserve(4);
    for (int i = 0; i < 4; ++i)
      callers.emplace_back([&] {
        for (int k = 0; k < 200; ++k) parallel_for(16, 1, [&](size_t, size_t) { ++total; });
      });
  }
  EXPECT_EQ(total, 4u * 200u * 16u);
}

INSTANTIATE_TEST_SUITE_P(Counts, Threads, testing::Values(1, 2, 3, 8));

TEST(ThreadPool, ResizesBetweenRegions) {
  for (const size_t count : {3u, 1u, 8u, 2u, 5u}) {
    set_thread_count(count);
    EXPECT_EQ(thread_count(), count);
    std::atomic<size_t> total{0};
    parallel_for(1000, 1, [&](size_t, size_t) { ++total; });
    EXPECT_EQ(total, 1000u);
  }
  set_thread_count(0);
  EXPECT_GE(thread_count(), 1u);
}

// Every thread must get a range when each range waits until all of them have one.
TEST(ThreadPool, AllThreadsWork) {
  constexpr size_t kCount = 4;
  set_thread_count(kCount);
  std::atomic<size_t> arrived{0};
  std::mutex mutex;
  std::set<std::thread::id> ids;
  parallel_for(kCount, 1, [&](size_t, size_t) {
    ++arrived;
    while (arrived < kCount) std::this_thread::yield();
    const std::lock_guard lock(mutex);
    ids.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(ids.size(), kCount);
  set_thread_count(0);
}

// Each thread starts with a share of its own, in the order of the ranges: nobody gets a second range before all have
// one.
TEST(ThreadPool, SharesAreContiguous) {
  constexpr size_t kCount = 4, kGrain = 5, kRanges = 11;
  set_thread_count(kCount);
  for (int round = 0; round < 3; ++round) {
    std::atomic<size_t> arrived{0};
    std::mutex mutex;
    std::set<size_t> begins;
    parallel_for(kRanges * kGrain - 1, kGrain, [&](size_t begin, size_t) {
      if (arrived >= kCount) return;
      {
        const std::lock_guard lock(mutex);
        begins.insert(begin / kGrain);
      }
      ++arrived;
      while (arrived < kCount) std::this_thread::yield();
    });
    EXPECT_EQ(begins, (std::set<size_t>{0, 2, 5, 8}));
  }
  set_thread_count(0);
}

// CPUs that each thread of a region may run on.
std::set<int> allowed_cpus_of_threads() {
  std::mutex mutex;
  std::set<int> counts;
  parallel_for(64, 1, [&](size_t, size_t) {
    cpu_set_t set;
    ASSERT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
    std::this_thread::yield();
    const std::lock_guard lock(mutex);
    counts.insert(CPU_COUNT(&set));
  });
  return counts;
}

TEST(PinnedThreads, HaveACpuEachUntilTheyAreLetGo) {
  cpu_set_t usable;
  ASSERT_EQ(sched_getaffinity(0, sizeof usable, &usable), 0);
  if (CPU_COUNT(&usable) < 2) GTEST_SKIP() << "needs two CPUs";
  set_thread_count(2);
  pin_threads(true);
  EXPECT_EQ(allowed_cpus_of_threads(), std::set<int>{1});
  set_thread_count(1);
  set_thread_count(2);
  EXPECT_EQ(allowed_cpus_of_threads(), std::set<int>{1});
  pin_threads(false);
  EXPECT_EQ(allowed_cpus_of_threads(), std::set<int>{CPU_COUNT(&usable)});
  set_thread_count(0);
}

}  // namespace
}  // namespace nibble
