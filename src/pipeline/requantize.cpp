#include "pipeline/requantize.h"

#include "core/error.h"

namespace nibble {

std::optional<std::string> obstacle(const ExporterEntry& format, const OutputTensor& tensor) {
  try {
    format.check(tensor);
  } catch (const Error& error) {
    return error.what();
  }
  return std::nullopt;
}

std::optional<OutputTensor> nearest_form(const ExporterEntry& format, const OutputTensor& tensor) {
  const QuantSpec& own = *tensor.spec;
  std::vector<int> bits = {own.bits};
  for (int more = own.bits + 1; more <= QuantSpec::kMaxBits; ++more) bits.push_back(more);
  for (int fewer = own.bits - 1; fewer >= QuantSpec::kMinBits; --fewer) bits.push_back(fewer);
  std::vector<size_t> groups = {own.group};
  for (size_t group = size_t{1} << 30; group >= 16; group /= 2)
    if (group < own.group_size(tensor.cols()) && tensor.cols() % group == 0) groups.push_back(group);
  groups.push_back(QuantSpec::kWholeRow);

  OutputTensor candidate = tensor;
  candidate.grouped_columns = false;
  const auto fits = [&] { return !obstacle(format, candidate); };
  for (const ActivationSpec& activations : {tensor.activations, ActivationSpec{}})
    for (const int count : bits)
      for (const bool symmetric : {own.symmetric, !own.symmetric})
        for (const size_t group : groups) {
          candidate.activations = activations;
          candidate.spec = QuantSpec{.bits = count,
                                     .group = group,
                                     .symmetric = symmetric,
                                     .scale_dtype = format.scale_dtype.value_or(own.scale_dtype)};
          if (fits()) return candidate;
        }
  return std::nullopt;
}

}  // namespace nibble
