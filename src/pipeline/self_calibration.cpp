#include "pipeline/self_calibration.h"

#include "pipeline/evaluate.h"

namespace nibble {

std::vector<std::vector<TokenId>> sample_documents(const Source& source, const CalibrationChoice& choice,
                                                   Progress& progress) {
  LoadOptions options;
  options.compute = Compute::kAuto;
  const auto model = Model::load(source, options, progress);
  const auto tokens = sample_windows(*model, choice.samples, choice.seqlen, choice.seed, progress);
  std::vector<std::vector<TokenId>> documents;
  for (size_t i = 0; i < tokens.size(); i += choice.seqlen)
    documents.emplace_back(tokens.begin() + static_cast<std::ptrdiff_t>(i),
                           tokens.begin() + static_cast<std::ptrdiff_t>(i + choice.seqlen));
  return documents;
}

}  // namespace nibble
