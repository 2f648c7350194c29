#include "kernels/block_fit.h"

#include "kernels/kernels.h"
#include "kernels/target.h"

namespace nibble::kernels {

namespace baseline {
namespace {
constexpr size_t kLanes = 4;
using Vec = float __attribute__((vector_size(16)));
using Ints = int32_t __attribute__((vector_size(16)));
#include "kernels/block_fit.inc"
constexpr BlockFit kFit = {search, measure, encode};
}  // namespace
}  // namespace baseline

#if defined(__x86_64__)
NIBBLE_TARGET_BEGIN("avx2,fma")
namespace with_avx2 {
namespace {
constexpr size_t kLanes = 8;
using Vec = float __attribute__((vector_size(32)));
using Ints = int32_t __attribute__((vector_size(32)));
#include "kernels/block_fit.inc"  // NOLINT(readability-duplicate-include)
constexpr BlockFit kFit = {search, measure, encode};
}  // namespace
}  // namespace with_avx2
NIBBLE_TARGET_END

NIBBLE_TARGET_BEGIN("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")
namespace with_avx512 {
namespace {
constexpr size_t kLanes = 16;
using Vec = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
#include "kernels/block_fit.inc"  // NOLINT(readability-duplicate-include)
constexpr BlockFit kFit = {search, measure, encode};
}  // namespace
}  // namespace with_avx512
NIBBLE_TARGET_END
#endif

const BlockFit& block_fit(const Table& table) {
#if defined(__x86_64__)
  if (table.name == "avx512") return with_avx512::kFit;
  if (table.name == "avx2") return with_avx2::kFit;
#endif
  static_cast<void>(table);
  return baseline::kFit;
}

}  // namespace nibble::kernels
