#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/progress.h"
#include "model/model.h"
#include "model/source.h"
#include "model/tokenizer.h"

namespace nibble {

// Of all tensors, a tied matrix counted once.
struct WeightTotals {
  size_t parameters = 0;
  size_t bytes = 0;  // stored, scales and zero points included

  // Bits per weight; 0 for a model without weights.
  double bpw() const {
    return parameters == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters);
  }
};
WeightTotals count_weights(const Source& source);

// How a model is to be loaded, beyond where it is.
struct ModelChoices {
  std::optional<DType> dtype;  // type of what is not quantized; default: as stored
  Compute compute = Compute::kFp32;
  bool copy_dense = false;     // see LoadOptions
  bool check_compute = false;  // compare kInt8 with float on a few tokens; see Model::check_products
  std::string scheme;          // preset to quantize with on the fly, or ""
  std::string quant;           // torchchat dictionary to quantize with on the fly, or ""
};

// A model ready to run with all that belongs to it.
struct LoadedModel {
  std::unique_ptr<Source> source;        // outlives the model, which reads from its mapping
  std::unique_ptr<Tokenizer> tokenizer;  // null when the checkpoint has none
  std::unique_ptr<Model> model;
  WeightTotals totals;                // on disk, or as `quantize` would have written what was quantized on the fly
  std::vector<std::string> warnings;  // of the plan on the fly
  std::vector<ProductCheck> checks;   // with check_compute

  // Throws Error(kUsage) when there is no tokenizer.
  void need_tokenizer() const;
};

LoadedModel load_model(const std::filesystem::path& path, const ModelChoices& choices, Progress& progress);

}  // namespace nibble
