#pragma once
#include <cstddef>
#include <span>
#include <string_view>

#include "core/error.h"

namespace nibble {

// Advice that ends messages about files whose bytes contradict themselves.
inline constexpr std::string_view kTruncated = "the file is truncated: download it again";
inline constexpr std::string_view kDamaged = "the file is damaged: download it again";

// Model hubs are git repositories; a clone without the LFS extension holds short texts in place of the weights.
inline void refuse_lfs_pointer(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("version https://git-lfs"))
    throw Error(ErrorKind::kCorrupt, "this is a Git LFS pointer and not the weights: run 'git lfs pull' in its folder");
}

}  // namespace nibble
