#include "model/onnx_weights.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "core/checked.h"
#include "core/error.h"

namespace nibble {
namespace {

struct Constant {
  const onnx::TensorProto* tensor;
  bool transposed;
  const onnx::NodeProto* dequantizer = nullptr;  // what makes floats of it

  bool is_weight() const;
};

bool is_float_type(int type) {
  return type == onnx_type::kFloat || type == onnx_type::kFloat16 || type == onnx_type::kBFloat16;
}

bool is_code_type(int type) {
  return type == onnx_type::kInt4 || type == onnx_type::kUint4 || type == onnx_type::kInt8 || type == onnx_type::kUint8;
}

bool Constant::is_weight() const {
  return dequantizer ? is_code_type(tensor->data_type()) : is_float_type(tensor->data_type());
}

// The two-dimensional tensor behind a value, through nodes that only pass it on.
std::optional<Constant> find_matrix(const OnnxGraphIndex& index, const std::string& value) {
  constexpr int kLongest = 8;  // no graph needs more, and a damaged one ends
  std::string at = value;
  bool transposed = false;
  const onnx::NodeProto* dequantizer = nullptr;
  for (int step = 0; step < kLongest; ++step) {
    const onnx::TensorProto* tensor = index.is_constant(at) ? index.initializer(at) : nullptr;
    const onnx::NodeProto* node = tensor ? nullptr : index.producer(at);
    if (node && node->op_type() == "Constant" && node->domain().empty()) {
      const onnx::AttributeProto* attribute = find_attribute(*node, "value");
      if (attribute && attribute->has_t()) tensor = &attribute->t();
    }
    if (tensor) {
      if (tensor->dims_size() != 2) return std::nullopt;
      return Constant{tensor, transposed, dequantizer};
    }
    if (node && !dequantizer && node->op_type() == "DequantizeLinear" && node->input_size() > 1 &&
        (node->domain().empty() || node->domain() == "com.microsoft")) {
      dequantizer = node;
      at = node->input(0);
      if (!index.is_constant(at)) return std::nullopt;  // a Transpose behind it would turn the scales too
      continue;
    }
    if (!node || !node->domain().empty() || node->input_size() != 1) return std::nullopt;
    if (node->op_type() == "Transpose") {
      const onnx::AttributeProto* perm = find_attribute(*node, "perm");
      if (perm && perm->ints_size() != 2) return std::nullopt;
      if (!perm || perm->ints(0) == 1) transposed = !transposed;
    } else if (node->op_type() != "Identity") {
      return std::nullopt;
    }
    at = node->input(0);
  }
  return std::nullopt;
}

// Is the value a constant vector of `size` elements?
bool is_vector(const OnnxGraphIndex& index, const std::string& value, size_t size) {
  const onnx::TensorProto* tensor = index.initializer(value);
  return tensor && tensor->dims_size() == 1 && tensor->dims(0) >= 0 && static_cast<size_t>(tensor->dims(0)) == size;
}

std::string gemm_obstacle(const OnnxGraphIndex& index, const onnx::NodeProto& node, size_t rows) {
  if (int_attribute(node, "transA", 0) != 0) return "Gemm with transA";
  if (float_attribute(node, "alpha", 1.0f) != 1.0f) return "Gemm with alpha other than 1";
  if (node.input_size() < 3 || node.input(2).empty()) return "";
  if (float_attribute(node, "beta", 1.0f) != 1.0f) return "Gemm with beta other than 1";
  if (!is_vector(index, node.input(2), rows)) return "Gemm whose C is not a constant vector";
  return "";
}

class Finder {
 public:
  Finder(const OnnxModel& model, const OnnxGraphIndex& index) : model_(model), index_(index) {}

  std::vector<OnnxWeight> find() {
    const onnx::GraphProto& graph = model_.graph();
    for (int i = 0; i < graph.node_size(); ++i)
      with_context([&] { return cat("node ", onnx_node_name(graph.node(i))); }, [&] { look_at(graph.node(i), i); });
    return std::move(weights_);
  }

 private:
  void look_at(const onnx::NodeProto& node, int i) {
    const std::string& type = node.op_type();
    if (node.domain() == "com.microsoft") {
      if (type == "MatMulNBits" && node.input_size() >= 3) add_packed(OnnxWeight::Op::kMatMulNBits, node, i);
      if (type == "MatMulBnb4" && node.input_size() >= 3) add_packed(OnnxWeight::Op::kMatMulBnb4, node, i);
      if (type == "GatherBlockQuantized" && node.input_size() >= 3) add_packed_table(node, i);
    } else if (node.domain().empty() || node.domain() == "ai.onnx") {
      if ((type == "MatMul" || type == "Gemm") && node.input_size() >= 2) add_product(node, i);
      if (type == "Gather" && node.input_size() == 2 && int_attribute(node, "axis", 0) == 0) add_table(node, i);
    }
  }

  void add_product(const onnx::NodeProto& node, int i) {
    const auto constant = find_matrix(index_, node.input(1));
    if (!constant || !constant->is_weight()) return;
    const bool gemm = node.op_type() == "Gemm";
    // MatMul reads [inputs, outputs].
    const bool rows_are_inputs = !(gemm && int_attribute(node, "transB", 0) != 0);
    const bool transposed = constant->transposed != rows_are_inputs;
    OnnxWeight weight = shaped(gemm ? OnnxWeight::Op::kGemm : OnnxWeight::Op::kMatMul, *constant, transposed);
    if (gemm) weight.obstacle = gemm_obstacle(index_, node, weight.rows);
    if (weight.is_packed() && !weight.obstacle.empty()) return;
    if (weight.is_packed()) weight.obstacle = "quantized already";
    add(std::move(weight), node, i);
  }

  void add_table(const onnx::NodeProto& node, int i) {
    const auto constant = find_matrix(index_, node.input(0));
    if (!constant || !constant->is_weight()) return;
    OnnxWeight weight = shaped(OnnxWeight::Op::kGather, *constant, constant->transposed);
    if (weight.is_packed() && !weight.obstacle.empty()) return;
    if (weight.is_packed()) weight.obstacle = "quantized already";
    add(std::move(weight), node, i);
  }

  void add_packed(OnnxWeight::Op op, const onnx::NodeProto& node, int i) {
    const onnx::TensorProto* codes = index_.initializer(node.input(1));
    if (!codes) return;
    OnnxWeight weight;
    weight.op = op;
    weight.tensor = codes;
    weight.rows = checked_cast<size_t>(int_attribute(node, "N", 0), "N");
    weight.cols = checked_cast<size_t>(int_attribute(node, "K", 0), "K");
    weight.obstacle = "quantized already";
    add(std::move(weight), node, i);
  }

  // Of bytes, [rows, width * bits / 8], along the width.
  void add_packed_table(const onnx::NodeProto& node, int i) {
    const onnx::TensorProto* codes = index_.initializer(node.input(0));
    if (!codes || codes->data_type() != onnx_type::kUint8 || codes->dims_size() != 2) return;
    if (int_attribute(node, "gather_axis", 0) != 0 || int_attribute(node, "quantize_axis", 1) != 1) return;
    const int64_t bits = int_attribute(node, "bits", 4);
    if (bits != 2 && bits != 4 && bits != 8) throw Error(ErrorKind::kCorrupt, cat(bits, " bits"));
    OnnxWeight weight;
    weight.op = OnnxWeight::Op::kGatherBlockQuantized;
    weight.tensor = codes;
    weight.rows = checked_cast<size_t>(codes->dims(0), "an extent");
    weight.cols =
        checked_mul(checked_cast<size_t>(codes->dims(1), "an extent"), static_cast<size_t>(8 / bits), "width");
    weight.obstacle = "quantized already";
    add(std::move(weight), node, i);
  }

  static OnnxWeight shaped(OnnxWeight::Op op, const Constant& constant, bool transposed) {
    OnnxWeight weight;
    const onnx::TensorProto& tensor = *constant.tensor;
    weight.op = op;
    weight.tensor = &tensor;
    if (constant.dequantizer) weight.dequantizers.push_back(constant.dequantizer);
    weight.transposed = transposed;
    const auto first = checked_cast<size_t>(tensor.dims(0), "an extent");
    const auto second = checked_cast<size_t>(tensor.dims(1), "an extent");
    weight.rows = transposed ? second : first;
    weight.cols = transposed ? first : second;
    if (weight.rows == 0 || weight.cols == 0) weight.obstacle = "empty";
    return weight;
  }

  // Scales, zero points, and where they lie: the same for nodes that make the same values of the same codes.
  static std::string grid_of(const onnx::NodeProto* dequantizer) {
    if (!dequantizer) return "";
    const auto input = [&](int k) { return k < dequantizer->input_size() ? dequantizer->input(k) : ""; };
    return cat(input(1), '\n', input(2), '\n', int_attribute(*dequantizer, "axis", 1), ' ',
               int_attribute(*dequantizer, "block_size", 0));
  }

  void add(OnnxWeight weight, const onnx::NodeProto& node, int i) {
    const bool product = weight.op == OnnxWeight::Op::kMatMul || weight.op == OnnxWeight::Op::kGemm;
    const onnx::NodeProto* dequantizer = weight.dequantizers.empty() ? nullptr : weight.dequantizers[0];
    const auto [known, is_new] =
        known_.emplace(std::tuple(weight.tensor, weight.transposed, product ? 0 : static_cast<int>(weight.op) + 1,
                                  grid_of(dequantizer)),
                       weights_.size());
    if (dequantizer && !is_new) {
      auto& all = weights_[known->second].dequantizers;
      if (std::find(all.begin(), all.end(), dequantizer) == all.end()) all.push_back(dequantizer);
    }
    if (is_new) {
      weight.name = onnx_node_name(node);
      while (!names_.insert(weight.name).second) weight.name += '\'';  // nodes may share a name
      weights_.push_back(std::move(weight));
    } else if (weights_[known->second].obstacle.empty()) {
      weights_[known->second].obstacle = weight.obstacle;
    }
    weights_[known->second].nodes.push_back(i);
  }

  const OnnxModel& model_;
  const OnnxGraphIndex& index_;
  std::map<std::tuple<const onnx::TensorProto*, bool, int, std::string>, size_t> known_;
  std::set<std::string> names_;
  std::vector<OnnxWeight> weights_;
};

}  // namespace

std::vector<OnnxWeight> find_onnx_weights(const OnnxModel& model, const OnnxGraphIndex& index) {
  return Finder(model, index).find();
}

const OnnxWeight* last_product(const std::vector<OnnxWeight>& weights) {
  const OnnxWeight* last = nullptr;
  for (const OnnxWeight& weight : weights)
    if (!weight.is_table() && (!last || weight.nodes.back() > last->nodes.back())) last = &weight;
  return last;
}

}  // namespace nibble
