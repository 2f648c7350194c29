#include "kernels/block_fit.h"

#define NIBBLE_KERNEL "kernels/block_fit.inc"
#include "kernels/vector_widths.inc"

namespace nibble::kernels {

const BlockFit& block_fit(const Table& table) { return entry_for(table); }

}  // namespace nibble::kernels
