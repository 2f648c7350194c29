#include "model/cache_type.h"

#include <string>

#include "core/error.h"

namespace nibble {

std::string_view name(CacheType type) {
  static constexpr std::string_view kNames[] = {"f32", "f16", "bf16", "q8", "q4"};
  return kNames[static_cast<size_t>(type)];
}

CacheType parse_cache_type(std::string_view text) {
  std::string known;
  for (const CacheType type : kCacheTypes) {
    if (name(type) == text) return type;
    known += cat(known.empty() ? "" : ", ", name(type));
  }
  throw Error(ErrorKind::kUsage, cat("a cache of the type '", text, "' is not known; choose ", known));
}

}  // namespace nibble
