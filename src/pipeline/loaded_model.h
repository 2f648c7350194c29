#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "core/progress.h"
#include "model/model.h"
#include "model/source.h"
#include "model/tokenizer.h"

namespace nibble {

// How a model is to be loaded, beyond where it is.
struct ModelChoices {
  std::optional<DType> dtype;  // type of what is not quantized; default: as stored
  std::string scheme;          // preset to quantize with on the fly, or ""
  std::string quant;           // torchchat dictionary to quantize with on the fly, or ""
};

// A model ready to run with all that belongs to it. The source outlives the model, which reads from its mapping.
struct LoadedModel {
  std::unique_ptr<Source> source;
  std::unique_ptr<Tokenizer> tokenizer;  // null when the checkpoint has none
  std::unique_ptr<Model> model;
  size_t bytes = 0;       // of all weights as loaded: packed codes, scales, unquantized tensors
  size_t parameters = 0;  // a tied matrix counted once

  double bpw() const { return 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters); }
  // Throws Error(kUsage) when there is no tokenizer.
  void need_tokenizer() const;
};

LoadedModel load_model(const std::filesystem::path& path, const ModelChoices& choices, Progress& progress);

}  // namespace nibble
