#pragma once
#include <optional>
#include <string>

#include "export/exporter.h"
#include "export/gguf_scheme.h"
#include "pipeline/quantize_request.h"

namespace nibble {

// Which GGML type each matrix gets when a GGUF scheme ("Q4_K_M") was asked for.
class BlockTypes {
 public:
  struct Choice {
    DType type;  // a block type, or a float type: not quantized
    std::string reason;
    std::string fallback;  // what was changed since rows are no whole blocks, or empty
  };

  BlockTypes(const GgufScheme& scheme, const QuantizeRequest& request, const ModelConfig& config)
      : scheme_(scheme), request_(request), config_(config) {}

  std::string name() const { return std::string(scheme_.name); }
  // Of everything, when the scheme is a float type.
  std::optional<DType> dtype() const;
  // For the matrix `tensor` with rows of `cols` columns. `rule`: the one that matches it, or null; of its settings only
  // bits mean something here. Throws Error(kUsage) for those that cannot be, and for a fallback that is not allowed.
  Choice choose(const std::string& tensor, size_t cols, const Rule* rule, bool allow_fallback) const;

 private:
  std::optional<DType> of_table(const TableChoice& table, std::string_view flag) const;

  const GgufScheme& scheme_;
  const QuantizeRequest& request_;
  const ModelConfig& config_;
};

// Nothing when the request's scheme is not one of GGUF's. Throws Error(kUsage) when it is, but the format is not, or
// flags contradict it. `format` may be null: weights stay in memory.
std::optional<BlockTypes> find_block_types(const QuantizeRequest& request, const ModelConfig& config,
                                           const ExporterEntry* format);

}  // namespace nibble
