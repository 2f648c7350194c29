#include <vector>

#include "kernels/int8.h"
#include "kernels/kernels.h"

namespace nibble::kernels {

#if defined(__x86_64__)
extern const Int8Table int8_vnni, int8_avx2;
#endif
extern const Int8Table int8_scalar;

std::span<const Int8Table* const> available_int8() {
  static const std::vector<const Int8Table*> usable = [] {
    std::vector<const Int8Table*> found;
#if defined(__x86_64__)
    for (const Int8Table* table : {&int8_vnni, &int8_avx2})
      if (table->usable()) found.push_back(table);
#endif
    found.push_back(&int8_scalar);
    return found;
  }();
  return usable;
}

const Int8Table& active_int8() {
  static const Int8Table& chosen = []() -> const Int8Table& {
    bool allowed = false;  // tables of better instruction sets than active()'s are not
    for (const Table* table : available()) {
      allowed = allowed || table == &active();
      if (!allowed) continue;
      for (const Int8Table* candidate : available_int8())
        if (candidate->kernels == table->name) return *candidate;
    }
    return int8_scalar;
  }();
  return chosen;
}

}  // namespace nibble::kernels
