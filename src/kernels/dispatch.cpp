#include <cstdlib>
#include <string>
#include <vector>

#include "core/error.h"
#include "kernels/kernels.h"

namespace nibble::kernels {

#define NIBBLE_KERNEL_TABLE(isa) extern const Table isa##_table;
#include "kernels/tables.def"
#undef NIBBLE_KERNEL_TABLE

static const Table* const kTables[] = {
#define NIBBLE_KERNEL_TABLE(isa) &isa##_table,
#include "kernels/tables.def"
#undef NIBBLE_KERNEL_TABLE
};

std::span<const Table* const> available() {
  static const std::vector<const Table*> usable = [] {
    std::vector<const Table*> found;
    for (const Table* table : kTables)
      if (table->usable()) found.push_back(table);
    return found;
  }();
  return usable;
}

const Table& active() {
  static const Table& chosen = []() -> const Table& {
    const char* wanted = std::getenv("NIBBLE_ISA");
    if (wanted == nullptr) return *available()[0];
    std::string known;
    for (const Table* table : available()) {
      if (table->name == wanted) return *table;
      known += cat(known.empty() ? "" : ", ", table->name);
    }
    throw Error(ErrorKind::kUsage,
                cat("NIBBLE_ISA=", wanted, " is not an instruction set that this CPU can run; it has: ", known,
                    ". Unset NIBBLE_ISA to let nibble choose"));
  }();
  return chosen;
}

}  // namespace nibble::kernels
