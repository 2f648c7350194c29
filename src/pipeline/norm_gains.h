#pragma once
#include <map>
#include <string>

#include "model/config.h"
#include "model/source.h"
#include "quant/input_stats.h"

namespace nibble {

// What a decoder's norms say of the inputs of the linears behind them, without any data: an RMS norm's output has the
// mean square of its gain, but for what the residual stream's columns differ by. By the linears' tensor names;
// importance is set, the squares of the gains, and nothing else.
std::map<std::string, InputFactor, std::less<>> norm_gains(const Source& source, const ModelConfig& config);

}  // namespace nibble
