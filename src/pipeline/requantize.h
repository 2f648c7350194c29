#pragma once
#include <optional>
#include <string>

#include "export/exporter.h"

namespace nibble {

// Why the format cannot hold the tensor, or nothing.
std::optional<std::string> obstacle(const ExporterEntry& format, const OutputTensor& tensor);

// The form nearest to the tensor's own that the format can hold, in its `spec` and `activations`: as many bits, then
// more, then fewer; its own group, then smaller powers of two, then the row; quantized inputs where they are possible.
// Nothing when the format holds such a tensor only unquantized.
std::optional<OutputTensor> nearest_form(const ExporterEntry& format, const OutputTensor& tensor);

}  // namespace nibble
