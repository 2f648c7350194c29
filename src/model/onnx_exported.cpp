#include "model/onnx_exported.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>
#include <utility>

#include "core/checked.h"
#include "core/json.h"
#include "model/architecture.h"
#include "model/block_sequence.h"
#include "model/config.h"
#include "model/onnx_interpreter.h"
#include "model/onnx_rotation.h"
#include "model/onnx_structure.h"
#include "model/onnx_tensors.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr size_t kTokens = 6;  // looked at
// Of the largest element: float32 against double, in other orders.
constexpr double kTolerance = 1e-3;

[[noreturn]] void unknown(const std::string& why) { throw Error(ErrorKind::kUnsupported, why); }

std::vector<int32_t> sample_tokens(size_t vocabulary) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < kTokens; ++i) tokens.push_back(static_cast<int32_t>((3 + 7 * i) % vocabulary));
  return tokens;
}

// The inputs of a text without a past.
void feed_tokens(OnnxInterpreter& interpreter, const onnx::GraphProto& graph, const OnnxGraphIndex& index,
                 const std::vector<int32_t>& tokens) {
  for (const onnx::ValueInfoProto& input : graph.input()) {
    const std::string& name = input.name();
    if (index.initializer(name)) continue;
    OnnxArray value{{1, tokens.size()}, std::vector<double>(tokens.size()), true};
    if (name == "input_ids") {
      std::copy(tokens.begin(), tokens.end(), value.v.begin());
    } else if (name == "attention_mask") {
      std::fill(value.v.begin(), value.v.end(), 1.0);
    } else if (name == "position_ids") {
      for (size_t i = 0; i < tokens.size(); ++i) value.v[i] = static_cast<double>(i);
    } else if (name.starts_with("past")) {
      value = {{}, {}, false};
      for (const auto& dim : input.type().tensor_type().shape().dim())
        value.shape.push_back(dim.has_dim_value()   ? checked_cast<size_t>(dim.dim_value(), "an extent")
                              : value.shape.empty() ? 1
                                                    : 0);
      if (element_count(value.shape) != 0)
        unknown(cat("its input ", name, " has no open dimension for earlier tokens"));
    } else {
      unknown(cat("its input is called ", name, ", not input_ids, attention_mask, position_ids or past..."));
    }
    interpreter.feed(name, std::move(value));
  }
}

std::string logits_of(const onnx::GraphProto& graph) {
  for (const onnx::ValueInfoProto& output : graph.output())
    if (output.name() == "logits") return output.name();
  if (graph.output_size() == 0) unknown("it has no output");
  return graph.output(0).name();
}

// The angles of position 1: [..., tokens, size or half of it].
double base_of(const OnnxArray* angles, size_t head_size) {
  const size_t half = head_size / 2;
  if (!angles || angles->shape.size() < 2 || angles->shape[angles->shape.size() - 2] != kTokens ||
      (angles->shape.back() != head_size && angles->shape.back() != half))
    unknown("its rotary embedding is not found; put the original config.json beside it");
  const double* first = angles->v.data() + angles->shape.back();
  const auto theta = rotary_base({first, half});
  if (!theta) unknown("its rotary embedding is scaled; put the original config.json beside it");
  return *theta;
}

// The shortest decimal that is this float: 1e-05 and not 9.99999974e-06.
double shortest(float value) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  double result = 0;
  std::from_chars(text.data(), end, result);
  return result;
}

Json make_config(const OnnxStructure& structure, OnnxInterpreter& interpreter) {
  const OnnxStructure::Layer& first = structure.layers.front();
  const OnnxArray* queries = interpreter.value(first.queries);  // [1, heads, tokens, head size]
  if (!queries || queries->shape.size() != 4 || queries->shape[2] != kTokens)
    unknown(cat("its queries, ", first.queries, ", are not [batch, heads, tokens, head size]"));
  const size_t heads = queries->shape[1], head_size = queries->shape[3];
  if (heads == 0 || head_size < 2 || first.key.weight->rows % head_size != 0) unknown("its heads have odd sizes");
  const char* type = first.query_norm ? "qwen3" : first.query.bias && !first.output.bias ? "qwen2" : "llama";
  const auto known = std::find_if(architectures().begin(), architectures().end(),
                                  [&](const Architecture* each) { return each->name == type; });
  if (known == architectures().end()) unknown(cat("a '", type, "' is not known"));
  return {{"architectures", {(*known)->class_name}},
          {"model_type", (*known)->name},
          {"vocab_size", structure.embedding->rows},
          {"hidden_size", structure.embedding->cols},
          {"intermediate_size", first.gate.weight->rows},
          {"num_hidden_layers", structure.layers.size()},
          {"num_attention_heads", heads},
          {"num_key_value_heads", first.key.weight->rows / head_size},
          {"head_dim", head_size},
          {"hidden_act", "silu"},
          {"rms_norm_eps", shortest(structure.epsilon)},
          {"rope_theta", base_of(interpreter.value(structure.angles), head_size)},
          {"attention_bias", first.query.bias != nullptr},
          {"mlp_bias", first.gate.bias != nullptr}};
}

// A few tokens do not show how far attention reaches.
void expect_windows(const std::set<size_t>& found, const Json& config) {
  const ModelConfig parsed = parse_config(config);
  std::set<size_t> expected(parsed.window.begin(), parsed.window.end());
  expected.erase(0);
  const auto text = [](const std::set<size_t>& windows) {
    return windows.empty() ? std::string("none") : cat(*windows.begin(), " tokens");
  };
  if (expected != found)
    unknown(cat("its attention has a window of ", text(found), ", its configuration of ", text(expected),
                "; put the original config.json beside it"));
}

// What the head reads, by nibble's decoder, one block in memory at a time.
std::vector<float> decoder_output(const Source& source, const std::vector<int32_t>& tokens) {
  const auto sequence = open_blocks(source, /*bf16=*/false);
  const size_t width = sequence->hidden_size();
  std::vector<float> hidden(tokens.size() * width), x, next;
  sequence->embed(tokens, matrix(hidden.data(), tokens.size(), width));
  for (size_t b = 0; b < sequence->blocks(); ++b) {
    const auto block = sequence->load(b);
    const std::vector<BlockStage>& stages = block->stages();
    x.assign(tokens.size() * stages[0].cols, 0.0f);
    block->begin(matrix(std::as_const(hidden).data(), tokens.size(), width),
                 matrix(x.data(), tokens.size(), stages[0].cols));
    if (b + 1 == sequence->blocks()) break;  // the head
    for (size_t s = 0; s < stages.size(); ++s) {
      const size_t cols = s + 1 < stages.size() ? stages[s + 1].cols : stages[s].cols;
      next.assign(tokens.size() * cols, 0.0f);
      block->advance(s, matrix(std::as_const(x).data(), tokens.size(), stages[s].cols),
                     matrix(hidden.data(), tokens.size(), width), matrix(next.data(), tokens.size(), cols));
      x.swap(next);
    }
    block->release();
  }
  return x;
}

}  // namespace

OnnxExported::OnnxExported(const fs::path& file) : OnnxSource(file) {
  with_context(
      [&] { return file.string(); },
      [&] {
        try {
          const onnx::GraphProto& graph = model_->graph();
          expect_float_products(graph, weights_);
          const OnnxStructure structure = find_onnx_structure(*model_, *index_, weights_, logits_of(graph));
          if (structure.layers.empty()) unknown("it has no layers");
          const std::vector<int32_t> tokens = sample_tokens(structure.embedding->rows);
          OnnxInterpreter interpreter(model_, *index_, weights_);
          feed_tokens(interpreter, graph, *index_, tokens);
          const std::string& before_head = graph.node(structure.head.weight->nodes.front()).input(0);
          for (const std::string& value : {before_head, structure.layers.front().queries, structure.angles})
            interpreter.keep(value);
          interpreter.run();
          const fs::path config = (file.has_parent_path() ? file.parent_path() : fs::path(".")) / "config.json";
          std::error_code failure;
          config_ = fs::exists(config, failure) ? read_json_file(config) : make_config(structure, interpreter);
          config_.erase("quantization_config");
          config_["tie_word_embeddings"] = false;
          expect_windows(structure.windows, config_);
          add_tensors(structure);
          index_tensors();
          const OnnxArray* want = interpreter.value(before_head);
          const std::vector<float> got = decoder_output(*this, tokens);
          double largest = 0, difference = 0;
          for (size_t i = 0; want && i < std::min(got.size(), want->v.size()); ++i) {
            largest = std::max(largest, std::abs(want->v[i]));
            difference = std::max(difference, std::abs(want->v[i] - static_cast<double>(got[i])));
          }
          if (!want || want->v.size() != got.size() || !(difference <= kTolerance * largest))
            unknown(cat("nibble's ", config_.value("model_type", ""), " decoder computes something else, by ",
                        largest > 0 ? difference / largest : 0.0, " of the largest value before the head"));
        } catch (const Error& error) {
          if (error.kind() == ErrorKind::kInterrupted) throw;
          unknown(cat("not a decoder that nibble recognises: ", error.what(),
                      "; nibble quantize MODEL.onnx --format onnx works on any graph with rtn, search, hqq, and gptq "
                      "on its inputs (--calib FILE.npz)"));
        }
      });
}

void OnnxExported::add_tensors(const OnnxStructure& structure) {
  std::set<const onnx::TensorProto*> used;
  const auto vector = [&](const onnx::TensorProto* tensor, const std::string& name) {
    // An equalizer changes one without the other.
    if (!used.insert(tensor).second) unknown(cat("the vector ", tensor->name(), " is used twice"));
    add(onnx_vector(model_, *tensor, name, 0, static_cast<size_t>(tensor->dims(0))), {nullptr, tensor, 0});
  };
  const auto matrix = [&](const OnnxWeight& weight, const std::string& name) {
    add(onnx_rows(model_, weight, name, 0, weight.rows), {&weight, nullptr, 0});
  };
  const auto linear = [&](const OnnxLinear& found, const std::string& name) {
    matrix(*found.weight, name + ".weight");
    if (found.bias) vector(found.bias, name + ".bias");
  };
  matrix(*structure.embedding, "model.embed_tokens.weight");
  for (size_t i = 0; i < structure.layers.size(); ++i) {
    const OnnxStructure::Layer& layer = structure.layers[i];
    const std::string block = cat("model.layers.", i, ".");
    vector(layer.input_norm, block + "input_layernorm.weight");
    linear(layer.query, block + "self_attn.q_proj");
    linear(layer.key, block + "self_attn.k_proj");
    linear(layer.value, block + "self_attn.v_proj");
    linear(layer.output, block + "self_attn.o_proj");
    if (layer.query_norm) vector(layer.query_norm, block + "self_attn.q_norm.weight");
    if (layer.key_norm) vector(layer.key_norm, block + "self_attn.k_norm.weight");
    vector(layer.mlp_norm, block + "post_attention_layernorm.weight");
    linear(layer.gate, block + "mlp.gate_proj");
    linear(layer.up, block + "mlp.up_proj");
    linear(layer.down, block + "mlp.down_proj");
  }
  vector(structure.norm, "model.norm.weight");
  linear(structure.head, "lm_head");
}

}  // namespace nibble
