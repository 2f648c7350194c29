#include "core/weight_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace nibble {
namespace {

TEST(WeightMemory, BlocksAreAlignedAndDisjoint) {
  struct Block {
    std::shared_ptr<std::byte> memory;
    size_t bytes;
  };
  std::vector<Block> blocks;
  for (const size_t bytes : {size_t{1}, size_t{100}, size_t{1} << 14, size_t{12345677}, (size_t{1} << 14) + 1,
                             size_t{1} << 20, size_t{33} << 20, size_t{31} << 20, size_t{30} << 20, size_t{70} << 20})
    blocks.push_back({weight_memory(bytes), bytes});
  for (size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(blocks[i].memory.get()) % kWeightAlignment, 0u);
    // Both ends of each block: a shared byte would be overwritten by a later block.
    blocks[i].memory.get()[0] = blocks[i].memory.get()[blocks[i].bytes - 1] = std::byte(i + 1);
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(blocks[i].memory.get()[0], std::byte(i + 1));
    EXPECT_EQ(blocks[i].memory.get()[blocks[i].bytes - 1], std::byte(i + 1));
  }
  std::sort(blocks.begin(), blocks.end(), [](const Block& a, const Block& b) { return a.memory < b.memory; });
  for (size_t i = 1; i < blocks.size(); ++i)
    EXPECT_LE(blocks[i - 1].memory.get() + blocks[i - 1].bytes, blocks[i].memory.get());
}

TEST(WeightMemory, AMappingOutlivesItsFirstOwner) {
  auto first = weight_memory(size_t{1} << 20);
  const auto second = weight_memory(size_t{1} << 20);
  second.get()[7] = std::byte{42};
  first.reset();
  EXPECT_EQ(second.get()[7], std::byte{42});
}

}  // namespace
}  // namespace nibble
