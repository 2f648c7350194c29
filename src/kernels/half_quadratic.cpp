#include "kernels/half_quadratic.h"

#include <cstdint>

#include "kernels/kernels.h"
#include "kernels/target.h"

namespace nibble::kernels {

namespace baseline {
namespace {
constexpr size_t kLanes = 4;
using Vec = float __attribute__((vector_size(16)));
using Ints = int32_t __attribute__((vector_size(16)));
#include "kernels/half_quadratic.inc"
}  // namespace
}  // namespace baseline

#if defined(__x86_64__)
NIBBLE_TARGET_BEGIN("avx2,fma")
namespace with_avx2 {
namespace {
constexpr size_t kLanes = 8;
using Vec = float __attribute__((vector_size(32)));
using Ints = int32_t __attribute__((vector_size(32)));
#include "kernels/half_quadratic.inc"  // NOLINT(readability-duplicate-include)
}  // namespace
}  // namespace with_avx2
NIBBLE_TARGET_END

NIBBLE_TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")
namespace with_avx512 {
namespace {
constexpr size_t kLanes = 16;
using Vec = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
#include "kernels/half_quadratic.inc"  // NOLINT(readability-duplicate-include)
}  // namespace
}  // namespace with_avx512
NIBBLE_TARGET_END
#endif

void half_quadratic(const Table& table, const HalfQuadratic& p, float* shifts, float* errors) noexcept {
#if defined(__x86_64__)
  if (table.name == "avx512") return with_avx512::iterate(p, shifts, errors);
  if (table.name == "avx2") return with_avx2::iterate(p, shifts, errors);
#endif
  static_cast<void>(table);
  baseline::iterate(p, shifts, errors);
}

void half_quadratic(const HalfQuadratic& p, float* shifts, float* errors) noexcept {
  half_quadratic(active(), p, shifts, errors);
}

}  // namespace nibble::kernels
