#pragma once
#include <map>
#include <set>
#include <string>
#include <vector>

#include "export/onnx_splice.h"

namespace nibble {

// Multiplies the inputs of products by a factor for each column. Where nothing else reads a value, and a norm or a
// product with a constant vector makes it, factors go into the constants there; elsewhere a Mul is put before the
// product.
class OnnxInputFactors {
 public:
  // Factors, [cols], by node; not empty, they outlive this. `model` is unchanged, `index` of its graph.
  OnnxInputFactors(const OnnxModel& model, const OnnxGraphIndex& index, std::map<int, const std::vector<float>*> nodes);

  // Replaces what makes the inputs, where that takes factors. Names of constants that may have lost their readers are
  // added to `maybe_unused`.
  void fold(OnnxSplice& splice, std::set<std::string>& maybe_unused) const;
  // For the replacement of product `i`: what goes before it (nothing where the factors were folded). Changes the input
  // of `node`, a copy of the product, whose weights are of `type`.
  OnnxReplacement before(int i, onnx::NodeProto& node, int type) const;

 private:
  // An input of a node that is a constant vector which takes factors.
  struct Constant {
    int node, input;
  };
  bool find_constants(const std::string& value, size_t cols, std::vector<Constant>& found) const;
  bool is_vector(const std::string& value, size_t cols) const;

  const OnnxModel& model_;
  const OnnxGraphIndex& index_;
  std::map<int, const std::vector<float>*> nodes_;
  std::map<std::string, int> makers_;                    // by value
  std::map<std::string, std::vector<Constant>> folded_;  // by the products' input
  std::map<int, std::string> names_;                     // of the inputs of the other products, once multiplied
};

}  // namespace nibble
