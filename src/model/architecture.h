#pragma once
// The model helper owns this file: ModelConfig and the registry of architecture descriptions (data).
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace nibble {

struct ModelConfig;

}  // namespace nibble
