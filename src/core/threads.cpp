#include "core/threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "core/checked.h"

namespace nibble {
namespace {

thread_local bool inside_pool = false;

// Distinct (package, core) pairs: hyper-threads share the units that the kernels saturate.
size_t physical_cores() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::set<std::pair<std::string, std::string>> cores;
  std::string package, line;
  while (std::getline(cpuinfo, line)) {
    if (line.starts_with("physical id")) package = line;
    if (line.starts_with("core id")) cores.emplace(package, line);
  }
  const size_t logical = std::max(1u, std::thread::hardware_concurrency());
  return cores.empty() ? logical : std::min(cores.size(), logical);
}

// CPUs that this process may use, the first of each core before the second of any.
std::vector<size_t> usable_cpus() {
  cpu_set_t allowed;
  std::vector<size_t> first, others;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return first;
  std::set<std::string> cores;
  for (size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    std::string siblings = std::to_string(cpu);
    std::getline(file, siblings);
    (cores.insert(siblings).second ? first : others).push_back(cpu);
  }
  first.insert(first.end(), others.begin(), others.end());
  return first;
}

// Every CPU of `cpus` for an index beyond them.
void bind_to(pthread_t thread, const std::vector<size_t>& cpus, size_t index) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (size_t i = 0; i < cpus.size(); ++i)
    if (i == index || index >= cpus.size()) CPU_SET(cpus[i], &set);
  if (!cpus.empty()) pthread_setaffinity_np(thread, sizeof set, &set);
}

// Each thread goes through ranges that follow each other, so that what is fetched ahead of one serves the next; when
// its share is done it helps the others.
struct Job {
  struct alignas(64) Share {  // a cache line, which no other thread writes as long as it has work of its own
    std::atomic<size_t> next{0};
    size_t end = 0;
  };

  void (*run)(const void*, size_t, size_t) = nullptr;
  const void* body = nullptr;
  size_t count = 0;
  size_t grain = 1;
  std::vector<Share> shares;  // one for each thread
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  std::mutex error_mutex;

  void divide() {
    const size_t ranges = ceil_div(count, grain), threads = shares.size();
    for (size_t i = 0; i < threads; ++i) {
      shares[i].next.store(ranges * i / threads * grain, std::memory_order_relaxed);
      shares[i].end = std::min(count, ranges * (i + 1) / threads * grain);
    }
  }

  void work(size_t thread) noexcept {
    for (size_t i = 0; i < shares.size(); ++i) {
      Share& share = shares[(thread + i) % shares.size()];
      while (!failed.load(std::memory_order_relaxed)) {
        const size_t begin = share.next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= share.end) break;
        try {
          run(body, begin, std::min(begin + grain, share.end));
        } catch (...) {
          const std::lock_guard lock(error_mutex);
          if (!error) error = std::current_exception();
          failed = true;
        }
      }
    }
  }
};

class Pool {
 public:
  ~Pool() { stop(); }

  void resize(size_t count) {
    const std::lock_guard lock(mutex_);
    stop();
    size_ = count == 0 ? physical_cores() : std::min(count, kMaxThreads);
  }

  void pin(bool wanted) {
    const std::lock_guard lock(mutex_);
    if (wanted && cpus_.empty()) cpus_ = usable_cpus();
    pinned_ = wanted;
    bound_ = 0;
    if (!wanted) bind_all(cpus_.size());
  }

  // Takes no lock: the bodies of a running region may ask.
  size_t size() const { return size_; }

  void run(size_t count, size_t grain, void (*range)(const void*, size_t, size_t), const void* body) {
    const std::lock_guard lock(mutex_);
    start_workers();
    if (pinned_ && bound_ != workers_.size() + 1) bind_all(0);
    job_.run = range, job_.body = body, job_.count = count, job_.grain = grain;
    job_.failed = false, job_.error = nullptr;
    job_.divide();
    pending_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
    round_.fetch_add(1);
    round_.notify_all();
    inside_pool = true;
    job_.work(0);
    inside_pool = false;
    for (uint32_t left = pending_.load(); left != 0; left = pending_.load()) wait_while(pending_, left);
    if (job_.error) std::rethrow_exception(std::exchange(job_.error, nullptr));
  }

 private:
  static constexpr size_t kMaxThreads = 1024;

  // Thread i of the pool to CPU first + i; 0 is the caller.
  void bind_all(size_t first) {
    bind_to(pthread_self(), cpus_, first);
    for (size_t i = 0; i < workers_.size(); ++i) bind_to(workers_[i].native_handle(), cpus_, first + i + 1);
    bound_ = workers_.size() + 1;
  }

  // Where the system gives fewer threads than asked for, the work is done by those that there are.
  void start_workers() {
    try {
      while (workers_.size() + 1 < size_)
        workers_.emplace_back([this, thread = workers_.size() + 1, seen = round_.load()] { serve(thread, seen); });
    } catch (const std::system_error&) {
      size_ = workers_.size() + 1;
    }
    if (job_.shares.size() != size_) job_.shares = std::vector<Job::Share>(size_);
  }

  // Rounds of a token's work follow each other within microseconds: spin a while before asking the kernel to sleep.
  template <class T>
  static void wait_while(const std::atomic<T>& value, T old) {
    for (int i = 0; i < 2000; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    value.wait(old);
  }

  void serve(size_t thread, uint32_t seen) {
    inside_pool = true;
    for (;;) {
      wait_while(round_, seen);
      seen = round_.load();
      if (stopping_) return;
      job_.work(thread);
      if (pending_.fetch_sub(1) == 1) pending_.notify_all();
    }
  }

  void stop() {
    stopping_ = true;
    round_.fetch_add(1);
    round_.notify_all();
    workers_.clear();
    bound_ = 0;
    stopping_ = false;
  }

  std::mutex mutex_;  // one parallel region at a time
  std::atomic<size_t> size_{physical_cores()};
  Job job_;
  // Of the width that the kernel waits on directly.
  std::atomic<uint32_t> round_{0};
  std::atomic<uint32_t> pending_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::jthread> workers_;
  std::vector<size_t> cpus_;  // once pinning was asked for
  bool pinned_ = false;
  size_t bound_ = 0;  // threads that are pinned
};

Pool& pool() {
  static Pool instance;
  return instance;
}

}  // namespace

void set_thread_count(size_t count) { pool().resize(count); }
size_t thread_count() { return pool().size(); }
void pin_threads(bool pin) { pool().pin(pin); }

void detail::parallel_for(size_t count, size_t grain, void (*run)(const void*, size_t, size_t), const void* body) {
  if (count == 0) return;
  grain = std::max<size_t>(grain, 1);
  if (inside_pool || count <= grain || pool().size() == 1) {
    for (size_t begin = 0; begin < count; begin += grain) run(body, begin, std::min(begin + grain, count));
    return;
  }
  pool().run(count, grain, run, body);
}

}  // namespace nibble
