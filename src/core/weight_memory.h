#pragma once
#include <cstddef>
#include <memory>

namespace nibble {

inline constexpr size_t kWeightAlignment = 64;  // a cache line, and the widest vector

// `bytes` of memory for weights that every token reads from end to end, aligned to kWeightAlignment, not initialised.
// Small requests share mappings on 2 MiB pages (where the system grants them): one page-table walk for 2 MiB instead of
// 512 is worth a third of the bandwidth that one thread reaches. A mapping is returned when the last of its owners is
// gone. Thread-safe. Throws Error(kUsage) when there is no memory.
std::shared_ptr<std::byte> weight_memory(size_t bytes);

}  // namespace nibble
