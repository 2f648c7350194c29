#pragma once

// Functions between NIBBLE_TARGET_BEGIN("avx2,fma") and NIBBLE_TARGET_END may use those instructions. Include every
// header before the region, so that code shared with the rest of the program stays compiled for the baseline CPU.
// NIBBLE_UNROLL before a loop over registers unrolls it whole. NIBBLE_INLINE before a function keeps the registers that
// it is given registers.
#define NIBBLE_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define NIBBLE_TARGET_BEGIN(isa) NIBBLE_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define NIBBLE_TARGET_END NIBBLE_PRAGMA(clang attribute pop)
#define NIBBLE_UNROLL NIBBLE_PRAGMA(unroll)
#else
// GCC 12 reports variables of its own AVX-512 header as uninitialized.
#define NIBBLE_TARGET_BEGIN(isa)                                \
  NIBBLE_PRAGMA(GCC push_options)                               \
  NIBBLE_PRAGMA(GCC target(isa))                                \
  NIBBLE_PRAGMA(GCC diagnostic push)                            \
  NIBBLE_PRAGMA(GCC diagnostic ignored "-Wmaybe-uninitialized") \
  NIBBLE_PRAGMA(GCC diagnostic ignored "-Wuninitialized")
#define NIBBLE_TARGET_END NIBBLE_PRAGMA(GCC diagnostic pop) NIBBLE_PRAGMA(GCC pop_options)
#define NIBBLE_UNROLL NIBBLE_PRAGMA(GCC unroll 16)
#endif
#define NIBBLE_INLINE [[gnu::always_inline]] inline
