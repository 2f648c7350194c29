#include "model/onnx_structure.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "core/error.h"
#include "model/onnx_arrays.h"

namespace nibble {
namespace {

using Node = onnx::NodeProto;

[[noreturn]] void missing(const std::string& what, const std::string& value) {
  throw Error(ErrorKind::kUnsupported, cat("there is no ", what, " behind ", value));
}

class Tracer {
 public:
  Tracer(const OnnxModel& model, const OnnxGraphIndex& index, const std::vector<OnnxWeight>& weights)
      : model_(model), index_(index) {
    for (const OnnxWeight& weight : weights)
      for (const int i : weight.nodes) uses_.emplace(&model.graph().node(i), &weight);
  }

  OnnxStructure trace(const std::string& logits) {
    for (const Node& node : model_.graph().node())
      if (node.output_size() == 0 || (node.input_size() == 0 && node.op_type() != "Constant"))
        throw Error(ErrorKind::kUnsupported,
                    cat("node ", onnx_node_name(node), ", a ", node.op_type(), ", reads or makes nothing"));
    OnnxStructure found;
    const Node* head = product(maker(plain(logits)));
    if (!head) missing("product", logits);
    found.head = {uses_.at(head), nullptr};
    claimed_.insert(found.head.weight);
    std::string stream = norm(head->input(0), found.norm, found.epsilon);
    while (!(found.embedding = table(stream))) {
      OnnxStructure::Layer layer;
      stream = mlp(stream, layer);
      stream = attention(stream, layer, found.epsilon);
      found.layers.push_back(layer);
    }
    std::reverse(found.layers.begin(), found.layers.end());
    for (const auto& [node, weight] : uses_)
      if (!claimed_.contains(weight) && !weight->is_table())
        throw Error(ErrorKind::kUnsupported, cat("no part of a decoder accounts for the product ", weight->name));
    for (const Node& node : model_.graph().node()) {
      if (node.op_type() == "Cos" && found.angles.empty()) found.angles = node.input(0);
      if (node.op_type().starts_with("Less") || node.op_type().starts_with("Greater")) add_window(node, found.windows);
    }
    return found;
  }

 private:
  const Node* maker(const std::string& value) const { return index_.producer(value); }

  // The value behind nodes that change its type alone.
  std::string plain(std::string value) const {
    for (const Node* node = maker(value); node && (node->op_type() == "Cast" || node->op_type() == "Identity");
         node = maker(value))
      value = node->input(0);
    return value;
  }

  const Node* product(const Node* node) const {
    const auto use = node ? uses_.find(node) : uses_.end();
    return use != uses_.end() && !use->second->is_table() ? node : nullptr;
  }

  const OnnxWeight* table(const std::string& value) const {
    const auto use = uses_.find(maker(plain(value)));
    return use != uses_.end() && use->second->is_table() ? use->second : nullptr;
  }

  // A constant vector of more than one element.
  const onnx::TensorProto* vector(const std::string& value) const {
    const onnx::TensorProto* tensor = index_.is_constant(value) ? index_.initializer(value) : nullptr;
    return tensor && tensor->dims_size() == 1 && tensor->dims(0) > 1 ? tensor : nullptr;
  }

  // The constant of a node on two values, if it is of `type`, and the other one.
  const onnx::TensorProto* constant_of(const Node& node, const char* type, std::string& other) const {
    if (node.op_type() != type || node.input_size() != 2) return nullptr;
    for (const int i : {0, 1})
      if (const onnx::TensorProto* tensor = vector(node.input(i))) {
        other = node.input(1 - i);
        return tensor;
      }
    return nullptr;
  }

  // All nodes that a value, but not its shape, depends on: visit() says whether to go on behind a node.
  void behind(const std::string& value, const std::function<bool(const Node&)>& visit) const {
    std::vector<std::string> waiting{value};
    std::set<const Node*> seen;
    while (!waiting.empty()) {
      const Node* node = maker(waiting.back());
      waiting.pop_back();
      if (!node || node->op_type() == "Shape" || !seen.insert(node).second || !visit(*node)) continue;
      waiting.insert(waiting.end(), node->input().rbegin(), node->input().rend());
    }
  }

  std::set<const Node*> products_behind(const std::string& value) const {
    std::set<const Node*> found;
    behind(value, [&](const Node& node) {
      if (!product(&node)) return !uses_.contains(&node);
      found.insert(&node);
      return false;
    });
    return found;
  }

  const Node* only_product(const std::string& value, const char* what) const {
    const std::set<const Node*> found = products_behind(value);
    if (found.size() != 1) missing(cat("single product for the ", what), value);
    return *found.begin();
  }

  // The product, with the bias that a reader of it adds, or that it adds itself.
  OnnxLinear linear(const Node* node) {
    OnnxLinear found{uses_.at(node), nullptr};
    claimed_.insert(found.weight);
    const int own = node->op_type() == "Gemm" ? 2 : node->op_type() == "MatMulNBits" ? 5 : -1;
    if (own >= 0 && own < node->input_size() && !node->input(own).empty()) found.bias = vector(node->input(own));
    std::string other;
    for (const int reader : index_.readers(node->output(0)))
      if (const auto* bias = constant_of(model_.graph().node(reader), "Add", other)) found.bias = bias;
    return found;
  }

  // A value without the bias that is added to it.
  std::string without_bias(const std::string& value) const {
    const std::string at = plain(value);
    std::string other;
    const Node* node = maker(at);
    return node && constant_of(*node, "Add", other) ? plain(other) : at;
  }

  // weight * (x / sqrt(mean(x^2) + epsilon)), in single operators or one: gives x.
  std::string norm(const std::string& value, const onnx::TensorProto*& weight, float& epsilon) const {
    const Node* node = maker(plain(value));
    if (!node) missing("norm", value);
    if (node->op_type() == "SimplifiedLayerNormalization" || node->op_type() == "RMSNormalization") {
      weight = node->input_size() > 1 ? vector(node->input(1)) : nullptr;
      if (!weight) missing("norm with a constant weight", value);
      epsilon = float_attribute(*node, "epsilon", 1e-5f);
      return plain(node->input(0));
    }
    std::string scaled;
    weight = constant_of(*node, "Mul", scaled);
    if (!weight) missing("norm", value);
    const Node* divided = maker(plain(scaled));
    if (!divided || divided->input_size() != 2 || (divided->op_type() != "Mul" && divided->op_type() != "Div"))
      missing("norm", value);
    for (const int i : {0, 1}) {
      // One side is what the other is the mean square of.
      std::string x = plain(divided->input(1 - i));
      const Node* root = nullptr;
      bool mean = false;
      std::string added;
      behind(divided->input(i), [&](const Node& each) {
        if (each.op_type() == "Sqrt" || (each.op_type() == "Pow" && !mean && !root)) root = &each;
        mean |= each.op_type() == "ReduceMean";
        if (each.op_type() == "Add" && added.empty() && each.input_size() == 2)
          added = number(each.input(1)) ? each.input(1) : each.input(0);
        return !product(&each) && each.op_type() != "ReduceMean";
      });
      if (!root || !mean || added.empty() || divided->input(i) == divided->input(1 - i)) continue;
      const std::optional<double> constant = number(added);
      if (!constant) continue;
      epsilon = static_cast<float>(*constant);
      return x;
    }
    missing("mean square", value);
  }

  // A constant of one element.
  std::optional<double> number(const std::string& value) const {
    const onnx::TensorProto* tensor = find_onnx_constant(index_, value);
    if (!tensor) return std::nullopt;
    const OnnxArray array = read_onnx_array(model_, *tensor);
    return array.v.size() == 1 ? std::optional(array.v[0]) : std::nullopt;
  }

  // stream = earlier + product(...): gives the product's node and the earlier stream.
  const Node* branch(const std::string& stream, std::string& earlier, const char* what) const {
    const Node* add = maker(plain(stream));
    if (!add || add->op_type() != "Add" || add->input_size() != 2) missing(what, stream);
    for (const int i : {1, 0})
      if (const Node* last = product(maker(without_bias(add->input(i))))) {
        earlier = plain(add->input(1 - i));
        return last;
      }
    missing(what, stream);
  }

  // Key positions are more than query positions - window.
  void add_window(const Node& comparison, std::set<size_t>& windows) const {
    for (const std::string& input : comparison.input()) {
      const Node* node = maker(plain(input));
      if (!node || node->op_type() != "Sub" || node->input_size() != 2) continue;
      if (const auto distance = number(node->input(1)); distance && *distance > 1)
        windows.insert(static_cast<size_t>(std::min(*distance, 1e15)));
    }
  }

  std::string mlp(const std::string& stream, OnnxStructure::Layer& layer) {
    std::string earlier;
    const Node* down = branch(stream, earlier, "gated MLP");
    layer.down = linear(down);
    const Node* gated = maker(plain(down->input(0)));
    if (!gated || gated->op_type() != "Mul" || gated->input_size() != 2) missing("gated MLP", down->input(0));
    const auto sigmoid = [&](const std::string& value) {
      bool found = false;
      behind(value, [&](const Node& node) {
        found |= node.op_type() == "Sigmoid";
        return !product(&node);
      });
      return found;
    };
    const int gate = sigmoid(gated->input(0)) ? 0 : 1;
    if (!sigmoid(gated->input(gate))) missing("SiLU", down->input(0));
    const Node* gate_product = only_product(gated->input(gate), "gate");
    layer.gate = linear(gate_product);
    layer.up = linear(only_product(gated->input(1 - gate), "MLP's other half"));
    float epsilon = 0;
    expect_stream(norm(gate_product->input(0), layer.mlp_norm, epsilon), earlier);
    return earlier;
  }

  std::string attention(const std::string& stream, OnnxStructure::Layer& layer, float epsilon) {
    std::string earlier;
    const Node* output = branch(stream, earlier, "attention");
    layer.output = linear(output);
    const auto [queries, keys, values] = attended(output->input(0));
    layer.value = linear(only_product(values, "values"));
    layer.queries = queries;
    const Node* query = only_product(queries, "queries");
    layer.query = linear(query);
    layer.key = linear(only_product(keys, "keys"));
    layer.query_norm = head_norm(queries, layer.query);
    layer.key_norm = head_norm(keys, layer.key);
    expect_stream(norm(query->input(0), layer.input_norm, epsilon), earlier);
    return earlier;
  }

  struct Attended {
    std::string queries, keys, values;
  };
  // What the heads behind a value are made of: by one operator, or by two products and a softmax between them.
  Attended attended(const std::string& heads) const {
    const Node* whole = nullptr;
    behind(heads, [&](const Node& node) {
      if (!whole && node.op_type() == "Attention" && node.input_size() >= 3) whole = &node;
      return !whole && !product(&node);
    });
    if (whole) return {whole->input(0), whole->input(1), whole->input(2)};
    const Node* context = inner_product(heads);
    if (!context) missing("product of weights and values", heads);
    const Node* softmax = nullptr;
    behind(context->input(0), [&](const Node& node) {
      if (!softmax && node.op_type() == "Softmax") softmax = &node;
      return !softmax;
    });
    const Node* scores = softmax ? inner_product(softmax->input(0)) : nullptr;
    if (!scores) missing("softmax of a product of queries and keys", context->input(0));
    return {scores->input(0), scores->input(1), context->input(1)};
  }

  void expect_stream(const std::string& found, const std::string& earlier) const {
    if (found != earlier && plain(found) != earlier) missing(cat("norm of the residual stream ", earlier), found);
  }

  // The first product of two values that are both computed.
  const Node* inner_product(const std::string& value) const {
    const Node* found = nullptr;
    behind(value, [&](const Node& node) {
      if (!found && node.op_type() == "MatMul" && node.input_size() == 2 && !product(&node)) found = &node;
      return !found && !product(&node);
    });
    return found;
  }

  // The vector that the heads are multiplied with on their way from the product.
  const onnx::TensorProto* head_norm(const std::string& value, const OnnxLinear& linear) const {
    const onnx::TensorProto* found = nullptr;
    std::string other;
    behind(value, [&](const Node& node) {
      if (product(&node)) return false;
      const onnx::TensorProto* weight = constant_of(node, "Mul", other);
      if (node.op_type().ends_with("Normalization") && node.input_size() > 1) weight = vector(node.input(1));
      // The rotation's frequencies are such a vector too, but no queries lie behind them.
      if (weight && weight != linear.bias && !products_behind(node.output(0)).empty()) found = weight;
      return true;
    });
    return found;
  }

  const OnnxModel& model_;
  const OnnxGraphIndex& index_;
  std::map<const Node*, const OnnxWeight*> uses_;
  std::set<const OnnxWeight*> claimed_;
};

}  // namespace

OnnxStructure find_onnx_structure(const OnnxModel& model, const OnnxGraphIndex& index,
                                  const std::vector<OnnxWeight>& weights, const std::string& logits) {
  return Tracer(model, index, weights).trace(logits);
}

}  // namespace nibble
