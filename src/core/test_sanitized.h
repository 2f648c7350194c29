#pragma once

namespace nibble {

// For tests: is this build under AddressSanitizer? It runs some ten times slower there: tests of what costs much more
// than one memory access a step take smaller cases of the same kind, and the other builds the larger ones.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace nibble
