#include "model/onnx_exported.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <map>

#include "core/files.h"
#include "core/random.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "formats/onnx_test_model.h"
#include "model/config.h"
#include "model/onnx_structure.h"

namespace nibble {
namespace {

using testing::HasSubstr;

constexpr int64_t kWords = 11, kHidden = 8, kHeads = 2, kKeyHeads = 1, kHead = 4, kWide = 6;

// A Llama of two layers in single operators, as torch.onnx writes it. No name tells what a node is for.
class Exported {
 public:
  onnx::ModelProto model = empty_onnx(18);

  // fused: attention and rotation are one operator each, as from opset 23 on.
  explicit Exported(bool fused = false) : fused_(fused) {
    if (fused) model.mutable_opset_import(0)->set_version(23);
    for (const char* input : {"input_ids", "attention_mask"}) model.mutable_graph()->add_input()->set_name(input);
    integers({-1});
    std::string x = op("Gather", {weight(kWords, kHidden), "input_ids"});
    const std::string length = op("Squeeze", {op("Slice", {op("Shape", {"input_ids"}), integers({1}), integers({2})})});
    const std::string positions = op("Range", {scalar(0), length, scalar(1)});
    const std::string column = op("Unsqueeze", {positions, integers({1})});
    const std::string angles = op("Mul", {cast(column, 1), frequencies()});
    const std::string both = fused ? angles : concat({angles, angles}, -1);
    const std::string cosines = op("Cos", {both}), sines = op("Sin", {both});
    const std::string visible = op("LessOrEqual", {positions, column});
    const std::string mask = op("Where", {visible, number(0), number(-1e30f)});
    for (int layer = 0; layer < 2; ++layer) {
      const std::string n = norm(x, kHidden);
      const std::string q = rotated(heads(linear(n, kHidden, kHeads * kHead), kHeads), cosines, sines);
      const std::string k = rotated(heads(linear(n, kHidden, kKeyHeads * kHead), kKeyHeads), cosines, sines);
      const std::string v = heads(linear(n, kHidden, kKeyHeads * kHead), kKeyHeads);
      const std::string context =
          transposed(fused ? op("Attention", {q, k, v, visible}) : attended(q, k, v, mask), {0, 2, 1, 3});
      const std::string flat = op("Reshape", {context, integers({1, -1, kHeads * kHead})});
      x = op("Add", {x, linear(flat, kHeads * kHead, kHidden)});
      const std::string m = norm(x, kHidden), gate = linear(m, kHidden, kWide);
      activation = cat("v", values_);
      const std::string silu = op("Mul", {gate, op("Sigmoid", {gate})});
      x = op("Add", {x, linear(op("Mul", {silu, linear(m, kHidden, kWide)}), kWide, kHidden)});
    }
    const std::string last = linear(norm(x, kHidden), kHidden, kWords);
    model.mutable_graph()->add_output()->set_name(last);
  }

  onnx::NodeProto& node(const std::string& output) {
    for (onnx::NodeProto& each : *model.mutable_graph()->mutable_node())
      if (each.output(0) == output) return each;
    throw Error(ErrorKind::kUsage, output);
  }
  onnx::NodeProto& first(const std::string& type) {
    for (onnx::NodeProto& each : *model.mutable_graph()->mutable_node())
      if (each.op_type() == type) return each;
    throw Error(ErrorKind::kUsage, type);
  }

  std::string op(const std::string& type, const std::vector<std::string>& inputs) {
    onnx::NodeProto& made = add_node(model, type, cat("n", values_), {}, {cat("v", values_)});
    for (const std::string& input : inputs) made.add_input(input);
    return cat("v", values_++);
  }
  std::string integers(const std::vector<int64_t>& values) {
    add_integers(model, cat("c", values_), {static_cast<int64_t>(values.size())}, values);
    return cat("c", values_++);
  }
  std::string scalar(int64_t value) {
    add_integers(model, cat("c", values_), {}, {value});
    return cat("c", values_++);
  }

  std::string activation;  // of the last gate

 private:
  std::string floats(std::initializer_list<int64_t> shape, const std::vector<float>& values) {
    add_floats(model, cat("c", values_), shape, values);
    return cat("c", values_++);
  }
  std::string number(float value) { return floats({}, {value}); }
  std::string weight(int64_t rows, int64_t cols) {
    std::vector<float> values;
    for (int64_t i = 0; i < rows * cols; ++i) values.push_back(static_cast<float>(random_.uniform()) - 0.5f);
    return floats({rows, cols}, values);
  }
  std::string frequencies() { return floats({kHead / 2}, {1, 0.01f}); }  // 10000^(-i / 2)
  std::string cast(const std::string& value, int64_t type) {
    const std::string made = op("Cast", {value});
    set_int(node(made), "to", type);
    return made;
  }
  std::string concat(const std::vector<std::string>& parts, int64_t axis) {
    const std::string made = op("Concat", parts);
    set_int(node(made), "axis", axis);
    return made;
  }
  std::string transposed(const std::string& value, std::initializer_list<int64_t> perm) {
    const std::string made = op("Transpose", {value});
    set_ints(node(made), "perm", perm);
    return made;
  }
  std::string linear(const std::string& x, int64_t in, int64_t out) { return op("MatMul", {x, weight(in, out)}); }
  std::string norm(const std::string& x, int64_t width) {
    const std::string mean = op("ReduceMean", {op("Pow", {x, number(2)}), integers({-1})});
    const std::string root = op("Sqrt", {op("Add", {mean, number(1e-5f)})});
    std::vector<float> values;
    for (int64_t i = 0; i < width; ++i) values.push_back(0.5f + static_cast<float>(random_.uniform()));
    return op("Mul", {floats({width}, values), op("Mul", {x, op("Div", {number(1), root})})});
  }
  std::string attended(const std::string& q, const std::string& k, const std::string& v, const std::string& mask) {
    const std::string products = op("MatMul", {q, transposed(k, {0, 1, 3, 2})});
    return op("MatMul", {op("Softmax", {op("Add", {op("Mul", {products, number(0.5f)}), mask})}), v});
  }
  std::string heads(const std::string& x, int64_t count) {
    return transposed(op("Reshape", {x, integers({1, -1, count, kHead})}), {0, 2, 1, 3});
  }
  std::string rotated(const std::string& x, const std::string& cosines, const std::string& sines) {
    if (fused_) return op("RotaryEmbedding", {x, cosines, sines});
    const auto part = [&](int64_t from, int64_t to) {
      return op("Slice", {x, integers({from}), integers({to}), integers({-1})});
    };
    const std::string turned = concat({op("Neg", {part(kHead / 2, kHead)}), part(0, kHead / 2)}, -1);
    return op("Add", {op("Mul", {x, cosines}), op("Mul", {turned, sines})});
  }

  bool fused_;
  Random random_{7};
  int values_ = 0;
};

class OnnxExportedGraphs : public testing::Test {
 protected:
  std::unique_ptr<Source> open(const onnx::ModelProto& model) {
    write_text_file(folder_ / "model.onnx", model.SerializeAsString());
    return Source::open(folder_.path());
  }
  std::string error_of(const onnx::ModelProto& model) {
    return error_text([&] { open(model); });
  }
  TestFolder folder_;
};

TEST_F(OnnxExportedGraphs, AreFoundByWhatTheyCompute) {
  const Exported graph;
  const auto source = open(graph.model);
  const ModelConfig config = parse_config(source->config());
  EXPECT_EQ(source->config().at("model_type"), "llama");
  EXPECT_EQ(config.layers, 2u);
  EXPECT_EQ(config.heads, 2u);
  EXPECT_EQ(config.kv_heads, 1u);
  EXPECT_EQ(config.head_dim, 4u);
  EXPECT_EQ(config.intermediate_size, 6u);
  EXPECT_EQ(config.rope.theta, 10000.0);
  EXPECT_FLOAT_EQ(config.norm_eps, 1e-5f);
  EXPECT_EQ(source->get("model.layers.1.self_attn.k_proj.weight").shape(), (Shape{4, 8}));
  EXPECT_EQ(source->get("model.layers.1.mlp.down_proj.weight").shape(), (Shape{8, 6}));
  EXPECT_EQ(source->tensors().size(), 2u * 9 + 3);
}

TEST_F(OnnxExportedGraphs, AttentionMayBeOneOperator) {
  const auto contents = [&](bool fused) {
    const auto source = open(Exported(fused).model);
    std::map<std::string, std::vector<float>> values;
    for (const auto& tensor : source->tensors()) {
      std::vector<float>& all = values[tensor->name()];
      all.resize(tensor->rows() * tensor->cols());
      tensor->read_rows(0, tensor->rows(), all.data());
    }
    return std::pair(source->config(), values);
  };
  const auto fused = contents(true), plain = contents(false);
  EXPECT_EQ(fused.first, plain.first);
  EXPECT_EQ(fused.second.size(), 2u * 9 + 3);
  EXPECT_EQ(fused.second, plain.second);
  Exported pairs(true);
  for (onnx::NodeProto& each : *pairs.model.mutable_graph()->mutable_node())
    if (each.op_type() == "RotaryEmbedding") set_int(each, "interleaved", 1);
  EXPECT_THAT(error_of(pairs.model), HasSubstr("computes something else"));
  Exported scale(true);
  set_float(scale.first("Attention"), "scale", 1);
  EXPECT_THAT(error_of(scale.model), HasSubstr("computes something else"));
  Exported capped(true);
  set_float(capped.first("Attention"), "softcap", 50);
  EXPECT_THAT(error_of(capped.model), HasSubstr("caps scores"));
  Exported cached(true);
  onnx::NodeProto& behind = cached.first("Attention");
  const std::string keys = behind.input(1);
  behind.add_input(keys);
  behind.add_input(keys);
  EXPECT_THAT(error_of(cached.model), HasSubstr("behind earlier keys"));
}

// NIBBLE_UPDATE_DATA=1 writes it.
TEST_F(OnnxExportedGraphs, TheSeedOfTheFuzzTargetIsThisGraph) {
  const std::filesystem::path file = std::filesystem::path(NIBBLE_TEST_DATA) / "decoder.onnx";
  const std::string bytes = Exported().model.SerializeAsString();
  if (std::getenv("NIBBLE_UPDATE_DATA") != nullptr) write_text_file(file, bytes);
  EXPECT_TRUE(read_text_file(file) == bytes);
}

TEST_F(OnnxExportedGraphs, OthersAreRefused) {
  Exported scale;  // half of the usual one
  scale.first("Softmax").set_input(0, scale.op("Mul", {scale.first("Softmax").input(0), scale.scalar(2)}));
  EXPECT_THAT(error_of(scale.model), HasSubstr("nibble's llama decoder computes something else, by 0."));
  Exported backwards;  // rotates the other way
  backwards.first("Neg").set_op_type("Identity");
  EXPECT_THAT(error_of(backwards.model), HasSubstr("computes something else"));
  Exported relu;
  for (onnx::NodeProto& each : *relu.model.mutable_graph()->mutable_node())
    if (each.op_type() == "Sigmoid") each.set_op_type("Tanh");
  EXPECT_THAT(error_of(relu.model), HasSubstr("there is no SiLU behind"));
  Exported encoder;
  encoder.first("LessOrEqual").set_op_type("GreaterOrEqual");
  EXPECT_THAT(error_of(encoder.model), HasSubstr("computes something else"));
  Exported integers;
  integers.op("MatMulInteger", {"input_ids", "input_ids"});
  EXPECT_THAT(error_of(integers.model), HasSubstr("not quantized inputs (W8A8)"));
  Exported input;
  input.model.mutable_graph()->add_input()->set_name("pixels");
  EXPECT_THAT(error_of(input.model), HasSubstr("its input is called pixels"));
}

// What a damaged file may hold: an Error, never a crash.
TEST(OnnxStructure, NodesMayLackWhatTheyShouldHave) {
  const Exported whole;
  const auto error_of = [](const onnx::ModelProto& proto) {
    return error_text([&] {
      const std::string bytes = proto.SerializeAsString();
      const auto model = OnnxModel::parse(bytes_of(bytes), nullptr);
      const OnnxGraphIndex index(model->graph());
      const auto weights = find_onnx_weights(*model, index);
      find_onnx_structure(*model, index, weights, model->graph().output(0).name());
    });
  };
  ASSERT_EQ(error_of(whole.model), "");
  size_t refused = 0;
  for (int i = 0; i < whole.model.graph().node_size(); ++i)
    for (int damage = 0; damage < 3; ++damage) {
      onnx::ModelProto model = whole.model;
      onnx::NodeProto& node = *model.mutable_graph()->mutable_node(i);
      if (damage == 0) node.clear_input();
      if (damage == 1) node.mutable_input()->RemoveLast();
      if (damage == 2) node.clear_output();
      refused += error_of(model).empty() ? 0 : 1;
    }
  EXPECT_GT(refused, 2 * static_cast<size_t>(whole.model.graph().node_size()));
}

TEST_F(OnnxExportedGraphs, AWindowMustBeInTheConfiguration) {
  Exported graph;
  onnx::NodeProto& where = graph.first("Where");
  onnx::NodeProto& causal = graph.first("LessOrEqual");
  const std::string keys = causal.input(0), queries = causal.input(1), visible = where.input(0);
  const std::string near = graph.op("Greater", {keys, graph.op("Sub", {queries, graph.scalar(100)})});
  const std::string both = graph.op("And", {visible, near});
  graph.first("Where").set_input(0, both);
  EXPECT_THAT(error_of(graph.model), HasSubstr("has a window of 100 tokens, its configuration of none"));
  Json config = open(Exported().model)->config();
  config["model_type"] = "mistral";
  config["architectures"] = {"MistralForCausalLM"};
  config["sliding_window"] = 100;
  write_text_file(folder_ / "config.json", config.dump());
  EXPECT_EQ(parse_config(open(graph.model)->config()).window.at(1), 100u);
  EXPECT_THAT(error_of(Exported().model), HasSubstr("has a window of none, its configuration of 100 tokens"));
}

}  // namespace
}  // namespace nibble
