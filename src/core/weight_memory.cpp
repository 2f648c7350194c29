#include "core/weight_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <new>

#include "core/checked.h"
#include "core/error.h"
#include "core/text.h"

namespace nibble {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// Of address space; pages become memory as they are written.
constexpr size_t kChunk = size_t{64} << 20;
// Below this a page is shared with other data anyway, and an allocation of its own lets sanitizers see its ends.
constexpr size_t kSmall = size_t{16} << 10;

[[noreturn]] void throw_no_memory(size_t bytes) {
  throw Error(ErrorKind::kUsage, cat("no memory for ", format_bytes(bytes), " of weights"));
}

std::shared_ptr<std::byte> small_block(size_t bytes) {
  constexpr auto kAlignment = std::align_val_t(kWeightAlignment);
  return {static_cast<std::byte*>(::operator new(bytes, kAlignment)),
          [](std::byte* p) { ::operator delete(p, kAlignment); }};
}

// An anonymous mapping that begins at a multiple of the large page.
class Mapping {
 public:
  explicit Mapping(size_t bytes) : mapped_(bytes + kHugePage) {
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base_ == MAP_FAILED) throw_no_memory(bytes);
    const auto address = reinterpret_cast<uintptr_t>(base_);
    data_ = static_cast<std::byte*>(base_) + (round_up(address, kHugePage) - address);
    madvise(data_, bytes, MADV_HUGEPAGE);  // a hint: refused where the kernel was built without them
  }
  ~Mapping() { munmap(base_, mapped_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* data() const { return data_; }

 private:
  void* base_ = nullptr;
  size_t mapped_;
  std::byte* data_ = nullptr;
};

struct Chunk {
  Mapping mapping{kChunk};
  size_t used = 0;
};

}  // namespace

std::shared_ptr<std::byte> weight_memory(size_t bytes) try {
  if (bytes < kSmall) return small_block(bytes);
  if (bytes > kChunk / 2) {
    const auto mapping = std::make_shared<Mapping>(round_up(bytes, kHugePage));
    return {mapping, mapping->data()};
  }
  static std::mutex mutex;
  static std::weak_ptr<Chunk> last;  // the chunk that has room; its owners keep it
  const std::lock_guard lock(mutex);
  std::shared_ptr<Chunk> chunk = last.lock();
  if (!chunk || kChunk - chunk->used < bytes) {
    chunk = std::make_shared<Chunk>();
    last = chunk;
  }
  std::byte* const block = chunk->mapping.data() + chunk->used;
  chunk->used += std::min(round_up(bytes, kWeightAlignment), kChunk - chunk->used);
  return {chunk, block};
} catch (const std::bad_alloc&) {
  throw_no_memory(bytes);
}

}  // namespace nibble
