#pragma once
#include <cstddef>
#include <cstdint>

// How the attention kernels see the keys and values of one head. Keys lie in panels of 16 positions,
// [panel][column][16], so that one vector holds a column of neighbouring positions and no score needs a sum across
// lanes; values lie in rows, [position][column]. `width` is the number of columns stored: a multiple of 16, for
// quantized formats of 32, zero beyond the head.
namespace nibble::kernels {

inline constexpr size_t kKvPanel = 16;  // positions
inline constexpr size_t kKvBlock = 32;  // columns that share a scale

enum class KvFormat : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8,  // value = scale * code, int8
  kQ4,  // value = scale * kKvLevels[code]; the codes of columns 32 b + j and 32 b + 16 + j, j < 16, share a byte, the
        // first in its low half: keys [panel][width / 2][16], values [position][width / 2]
};

// The 16 levels that minimise the squared error of normally distributed values in blocks of 32, each with its own best
// scale: the element of largest magnitude comes to lie near the first. Fitted by Lloyd's iteration on 1.3 million
// samples; relative error 0.0058, where 16 even steps of a scale fitted in the same way have 0.0066.
inline constexpr int8_t kKvLevels[16] = {-127, -97, -75, -58, -43, -30, -18, -6, 6, 17, 30, 43, 57, 72, 90, 112};

// Part of the keys (from a panel on) or values (from a position on) of a head; owns nothing.
struct KvView {
  KvFormat format = KvFormat::kF32;
  size_t width = 0;
  const void* data = nullptr;
  const uint16_t* scales = nullptr;  // f16; keys [panel][width / 32][16], values [position][width / 32]
};

}  // namespace nibble::kernels
