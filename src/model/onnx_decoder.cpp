#include "model/onnx_decoder.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>

#include "core/json.h"
#include "core/text.h"
#include "model/config.h"
#include "model/onnx_arrays.h"
#include "model/onnx_exported.h"
#include "model/onnx_rotation.h"
#include "model/onnx_tensors.h"
#include "model/source_floats.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void unknown(const std::string& why) {
  throw Error(ErrorKind::kUnsupported,
              cat("not a decoder that nibble recognises: ", why,
                  "; nibble quantize MODEL.onnx --format onnx works on any graph with rtn, search, hqq, "
                  "and gptq on its inputs (--calib FILE.npz)"));
}

fs::path beside(const fs::path& model, const char* name) {
  return (model.has_parent_path() ? model.parent_path() : fs::path(".")) / name;
}

// "/model/layers.3/attn/qkv_proj/MatMul_Q4" -> "model.layers.3.attn.qkv_proj": the module that a node belongs to.
std::string module_of(const std::string& node) {
  const size_t start = node.starts_with('/') ? 1 : 0;
  const size_t end = node.rfind('/');
  std::string module = node.substr(start, end == std::string::npos || end < start ? std::string::npos : end - start);
  std::replace(module.begin(), module.end(), '/', '.');
  return module;
}

// What the decoder computes, and what feeds it masks and lengths.
bool known_operator(const onnx::NodeProto& node) {
  static const std::set<std::string, std::less<>> known = {"Constant",
                                                           "ReduceSum",
                                                           "Sub",
                                                           "Cast",
                                                           "Shape",
                                                           "Gather",
                                                           "Transpose",
                                                           "SimplifiedLayerNormalization",
                                                           "SkipSimplifiedLayerNormalization",
                                                           "MatMul",
                                                           "MatMulNBits",
                                                           "MatMulBnb4",
                                                           "GatherBlockQuantized",
                                                           "DequantizeLinear",
                                                           "GroupQueryAttention",
                                                           "Sigmoid",
                                                           "Mul",
                                                           "Add",
                                                           "Reshape",
                                                           "Split",
                                                           "Identity"};
  return known.contains(node.op_type());
}

// The constant that an elementwise node adds or a norm multiplies with: its last input.
const onnx::TensorProto* constant_input(const OnnxGraphIndex& index, const onnx::NodeProto& node, int input) {
  return input < node.input_size() && index.is_constant(node.input(input)) ? index.initializer(node.input(input))
                                                                           : nullptr;
}

// A constant vector of integers, or nothing.
std::vector<int64_t> constant_integers(const OnnxModel& model, const OnnxGraphIndex& index, const std::string& value) {
  const onnx::TensorProto* tensor = find_onnx_constant(index, value);
  return tensor ? integers_of(read_onnx_array(model, *tensor)) : std::vector<int64_t>{};
}

// The base of the rotation from its tables: cosine and sine at position 1 give each frequency theta^(-i / half).
double table_base(const OnnxModel& model, const onnx::TensorProto& cosines, const onnx::TensorProto& sines) {
  const OnnxTensor cos = model.tensor(cosines), sin = model.tensor(sines);
  const auto dtype = onnx_dtype(cos.type);
  if (!dtype || !is_float(*dtype) || cos.type != sin.type || cos.shape.size() != 2 || cos.shape != sin.shape ||
      cos.shape[0] < 2 || cos.shape[1] < 2)
    unknown("its tables of cosines and sines are not [positions, half a head] of floats");
  const size_t half = cos.shape[1], row = byte_size(*dtype, half);
  std::vector<float> c(half), s(half);
  floats_from_bytes(*dtype, cos.bytes.data() + row, half, c.data(), cosines.name());
  floats_from_bytes(*dtype, sin.bytes.data() + row, half, s.data(), sines.name());
  std::vector<double> frequencies(half);
  for (size_t i = 0; i < half; ++i) frequencies[i] = std::atan2(static_cast<double>(s[i]), static_cast<double>(c[i]));
  const auto theta = nibble::rotary_base(frequencies);
  if (!theta) unknown("its rotary embedding is scaled; put the original config.json beside it");
  return *theta;
}

}  // namespace

// The nodes by what they are for.
struct OnnxDecoder::Names {
  std::map<std::string, const OnnxWeight*> products;       // by module
  std::map<std::string, const onnx::TensorProto*> norms;   // by module
  std::map<std::string, const onnx::TensorProto*> biases;  // by module
  std::vector<const onnx::NodeProto*> attention, splits;
  const OnnxWeight* embedding = nullptr;
  float epsilon = 1e-6f;

  const OnnxWeight* product(const std::string& module) const {
    const auto found = products.find(module);
    return found == products.end() ? nullptr : found->second;
  }
};

OnnxDecoder::OnnxDecoder(const fs::path& file) : OnnxSource(file) {
  with_context([&] { return file.string(); },
               [&] {
                 const onnx::GraphProto& graph = model_->graph();
                 Names names;
                 for (const OnnxWeight& weight : weights_) {
                   if (weight.op == OnnxWeight::Op::kGemm) unknown(cat("node ", weight.name, " is a Gemm"));
                   if (weight.is_table())
                     names.embedding = &weight;
                   else if (!names.products.emplace(module_of(weight.name), &weight).second)
                     unknown(cat("two products belong to ", module_of(weight.name)));
                 }
                 expect_float_products(graph, weights_);
                 for (const onnx::NodeProto& node : graph.node()) {
                   if (!known_operator(node)) unknown(cat("node ", onnx_node_name(node), " is a ", node.op_type()));
                   const std::string module = module_of(onnx_node_name(node));
                   if (node.op_type().ends_with("SimplifiedLayerNormalization")) {
                     const bool skip = node.op_type().starts_with("Skip");
                     const onnx::TensorProto* gamma = constant_input(*index_, node, skip ? 2 : 1);
                     if (!gamma || gamma->dims_size() != 1)
                       unknown(cat("node ", onnx_node_name(node), " has no constant weight"));
                     if (skip && node.input_size() > 3 && !node.input(3).empty())
                       unknown(cat("node ", onnx_node_name(node), " adds a vector"));
                     names.norms.emplace(module, gamma);
                     names.epsilon = float_attribute(node, "epsilon", skip ? 1e-12f : 1e-5f);
                   } else if (node.op_type() == "GroupQueryAttention") {
                     names.attention.push_back(&node);
                   } else if (node.op_type() == "Split") {
                     names.splits.push_back(&node);
                   } else if (node.op_type() == "Add") {
                     const onnx::TensorProto* bias = constant_input(*index_, node, 1);
                     if (!bias || !names.products.contains(module))
                       unknown(cat("node ", onnx_node_name(node), " adds no bias"));
                     names.biases.emplace(module, bias);
                   }
                 }
                 for (const auto& [module, weight] : names.products) {
                   const onnx::NodeProto& node = graph.node(weight->nodes.front());
                   if (node.op_type() != "MatMulNBits" || node.input_size() < 6 || node.input(5).empty()) continue;
                   const onnx::TensorProto* bias = constant_input(*index_, node, 5);
                   if (!bias) unknown(cat("the bias of node ", weight->name, " is not constant"));
                   names.biases.emplace(module, bias);
                 }
                 add_tensors(names);
                 index_tensors();
               });
}

void OnnxDecoder::add_tensors(const Names& names) {
  const fs::path genai_path = beside(path_, "genai_config.json"), config_path = beside(path_, "config.json");
  std::error_code failure;
  if (!fs::exists(genai_path, failure)) unknown("there is no genai_config.json beside it");
  const Json genai = read_json_file(genai_path);
  const auto in_genai = [&](const auto& read) { return with_context([&] { return genai_path.string(); }, read); };
  const Json& model = in_genai([&]() -> const Json& { return nibble::get(genai, "model"); });
  const Json& decoder = in_genai([&]() -> const Json& { return nibble::get(model, "decoder"); });
  const auto size_of = [&](const Json& object, const char* key) {
    return in_genai([&] {
      const auto value = find_size(object, key);
      if (!value) throw Error(ErrorKind::kCorrupt, cat("'", key, "' is missing"));
      return *value;
    });
  };
  const size_t layers = size_of(decoder, "num_hidden_layers"), heads = size_of(decoder, "num_attention_heads"),
               kv_heads = size_of(decoder, "num_key_value_heads"), head_dim = size_of(decoder, "head_size");
  const std::string type = in_genai([&] { return find_string(model, "type"); }).value_or("");
  const auto known = std::find_if(architectures().begin(), architectures().end(),
                                  [&](const Architecture* each) { return each->name == type; });
  if (known == architectures().end()) unknown(cat("genai_config.json calls it a '", type, "'"));
  if (names.attention.size() != layers)
    unknown(cat("it has ", names.attention.size(), " attentions in ", layers, " layers"));
  const OnnxWeight* head = names.product("lm_head");
  if (!names.embedding || !head) unknown("it has no token embedding or no lm_head");
  const OnnxWeight* gate = names.product("model.layers.0.mlp.gate_proj");
  if (!gate) unknown("there is no node /model/layers.0/mlp/gate_proj/MatMul");

  size_t window = 0;
  for (const onnx::NodeProto* node : names.attention) {
    const int64_t local = int_attribute(*node, "local_window_size", -1);
    const auto own = static_cast<size_t>(std::max<int64_t>(local, 0));
    if (node != names.attention.front() && own != window) unknown("its layers have different windows");
    window = own;
    const float scale = float_attribute(*node, "scale", 0.0f);
    const double usual = 1 / std::sqrt(static_cast<double>(head_dim));
    if (int_attribute(*node, "do_rotary", 0) != 1 || int_attribute(*node, "rotary_interleaved", 0) != 0 ||
        float_attribute(*node, "softcap", 0.0f) != 0.0f || int_attribute(*node, "smooth_softmax", 0) > 0 ||
        (scale != 0.0f && std::abs(static_cast<double>(scale) / usual - 1) > 1e-4))
      unknown(cat("node ", onnx_node_name(*node), " rotates, scales or caps in a way of its own"));
  }
  // A fused product is cut in the order q, k, v where norms of heads follow.
  const auto own = static_cast<int64_t>(heads * head_dim), shared = static_cast<int64_t>(kv_heads * head_dim);
  for (const onnx::NodeProto* node : names.splits)
    if (node->input_size() < 2 ||
        constant_integers(*model_, *index_, node->input(1)) != std::vector{own, shared, shared})
      unknown(cat("node ", onnx_node_name(*node), " does not cut at the ends of q and k"));
  bool attention_bias = false, mlp_bias = false;
  for (const auto& [module, bias] : names.biases)
    (module.find(".attn.") != std::string::npos ? attention_bias : mlp_bias) = true;

  if (fs::exists(config_path, failure)) {
    config_ = read_json_file(config_path);
    config_.erase("quantization_config");
  } else {
    const onnx::TensorProto* cosines = constant_input(*index_, *names.attention.front(), 7);
    const onnx::TensorProto* sines = constant_input(*index_, *names.attention.front(), 8);
    if (!cosines || !sines) unknown("its attention has no constant tables of cosines and sines");
    // The shortest decimal that is this float: 1e-05 and not 9.99999974e-06.
    std::array<char, 32> text{};
    const auto end = std::to_chars(text.data(), text.data() + text.size(), names.epsilon).ptr;
    double epsilon = 0;
    std::from_chars(text.data(), end, epsilon);
    config_ = {{"architectures", {(*known)->class_name}},
               {"model_type", (*known)->name},
               {"vocab_size", size_of(model, "vocab_size")},
               {"hidden_size", size_of(decoder, "hidden_size")},
               {"intermediate_size", gate->rows},
               {"num_hidden_layers", layers},
               {"num_attention_heads", heads},
               {"num_key_value_heads", kv_heads},
               {"head_dim", head_dim},
               {"hidden_act", "silu"},
               {"max_position_embeddings", size_of(model, "context_length")},
               {"rms_norm_eps", epsilon},
               {"rope_theta", table_base(*model_, *cosines, *sines)},
               {"attention_bias", attention_bias},
               {"mlp_bias", mlp_bias}};
    if (window > 0) config_["sliding_window"] = window;
    for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
      if (const Json* id = nibble::find(model, key)) config_[key] = *id;
  }
  config_["tie_word_embeddings"] = false;

  const auto matrix = [&](const OnnxWeight& weight, const std::string& name, size_t first, size_t rows) {
    add(onnx_rows(model_, weight, name, first, rows), {&weight, nullptr, first});
  };
  const auto vector = [&](const onnx::TensorProto& tensor, const std::string& name, size_t first, size_t count) {
    add(onnx_vector(model_, tensor, name, first, count), {nullptr, &tensor, first});
  };
  size_t used = 0;
  const auto linear = [&](const std::string& node, const std::string& name) {
    const OnnxWeight* weight = names.product(node);
    if (!weight) unknown(cat("there is no product in ", node));
    matrix(*weight, name + ".weight", 0, weight->rows);
    if (const auto bias = names.biases.find(node); bias != names.biases.end())
      vector(*bias->second, name + ".bias", 0, weight->rows);
    ++used;
  };
  const auto norm = [&](const std::string& node, const std::string& name) {
    const auto found = names.norms.find(node);
    if (found == names.norms.end()) unknown(cat("there is no norm in ", node));
    vector(*found->second, name + ".weight", 0, static_cast<size_t>(found->second->dims(0)));
  };
  matrix(*names.embedding, "model.embed_tokens.weight", 0, names.embedding->rows);
  for (size_t i = 0; i < layers; ++i) {
    const std::string block = cat("model.layers.", i, ".");
    norm(block + "input_layernorm", block + "input_layernorm");
    if (const OnnxWeight* fused = names.product(block + "attn.qkv_proj")) {
      const auto bias = names.biases.find(block + "attn.qkv_proj");
      size_t first = 0;
      for (const auto& [part, count] : {std::pair("q_proj", heads), {"k_proj", kv_heads}, {"v_proj", kv_heads}}) {
        const size_t rows = count * head_dim;
        matrix(*fused, cat(block, "self_attn.", part, ".weight"), first, rows);
        if (bias != names.biases.end()) vector(*bias->second, cat(block, "self_attn.", part, ".bias"), first, rows);
        first += rows;
      }
      if (first != fused->rows)
        unknown(cat("the fused q, k and v of layer ", i, " have ", fused->rows, " rows, not ", first));
      ++used;
    } else {
      for (const char* part : {"q_proj", "k_proj", "v_proj"})
        linear(cat(block, "attn.", part), cat(block, "self_attn.", part));
    }
    for (const char* part : {"q_norm", "k_norm"})
      if (names.norms.contains(cat(block, "attn.", part)))
        norm(cat(block, "attn.", part), cat(block, "self_attn.", part));
    linear(block + "attn.o_proj", block + "self_attn.o_proj");
    norm(block + "post_attention_layernorm", block + "post_attention_layernorm");
    for (const char* part : {"gate_proj", "up_proj", "down_proj"})
      linear(cat(block, "mlp.", part), cat(block, "mlp.", part));
  }
  norm(cat("model.layers.", layers, ".final_norm_layernorm"), "model.norm");
  linear("lm_head", "lm_head");
  if (used != names.products.size()) unknown(cat("it has ", names.products.size(), " products, ", used, " are known"));
}

std::unique_ptr<Source> open_onnx_decoder(const fs::path& path) {
  const fs::path file = onnx_file(path);
  // The builder's graphs come with this, and their attention is one operator.
  std::error_code failure;
  bool builder = fs::exists(beside(file, "genai_config.json"), failure);
  if (!builder) {
    const auto model = OnnxModel::open(file);
    builder = std::any_of(model->graph().node().begin(), model->graph().node().end(),
                          [](const onnx::NodeProto& node) { return node.op_type() == "GroupQueryAttention"; });
  }
  if (builder) return std::make_unique<OnnxDecoder>(file);
  return std::make_unique<OnnxExported>(file);
}

}  // namespace nibble
