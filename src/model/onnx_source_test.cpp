#include "model/onnx_source.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/error.h"
#include "core/files.h"
#include "formats/onnx_test_model.h"
#include "model/config.h"
#include "model/onnx_tensors.h"

namespace nibble {
namespace {

using testing::HasSubstr;

std::vector<float> counting(size_t n, float start = 0) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = start + static_cast<float>(i);
  return values;
}

std::vector<float> rows(const StoredTensor& tensor, size_t begin, size_t end) {
  std::vector<float> values((end - begin) * tensor.cols());
  tensor.read_rows(begin, end, values.data());
  return values;
}

// One block as onnxruntime-genai's builder writes it: hidden 4, two heads of 2 and one of keys, 6 wide, 5 words.
onnx::ModelProto decoder() {
  onnx::ModelProto model = empty_onnx();
  for (const char* input : {"input_ids", "mask"}) model.mutable_graph()->add_input()->set_name(input);
  add_floats(model, "head", {4, 5}, counting(20));
  for (const char* norm : {"n1", "n2", "n3"}) add_floats(model, norm, {4}, counting(4, 1));
  add_floats(model, "qkv", {4, 8}, counting(32));
  add_floats(model, "qkv_bias", {8}, counting(8, 100));
  add_floats(model, "o", {4, 4}, counting(16));
  add_floats(model, "gate", {4, 6}, counting(24));
  add_floats(model, "up", {4, 6}, counting(24, 50));
  add_floats(model, "down", {6, 4}, counting(24));
  // Head dimension 2: one frequency, 1, is enough for the rotation but not for its base; a table of 2 shows it.
  const float second = 0.01f;  // 10000^(-1/2)
  add_floats(model, "cos", {2, 2}, {1, 1, std::cos(1.0f), std::cos(second)});
  add_floats(model, "sin", {2, 2}, {0, 0, std::sin(1.0f), std::sin(second)});
  set_ints(add_node(model, "Transpose", "/model/embed_tokens/Transpose", {"head"}, {"table"}), "perm", {1, 0});
  add_node(model, "Gather", "/model/embed_tokens/Gather", {"table", "input_ids"}, {"x0"});
  set_float(add_node(model, "SimplifiedLayerNormalization", "/model/layers.0/input_layernorm/LayerNorm", {"x0", "n1"},
                     {"x1"}),
            "epsilon", 1e-5f);
  add_node(model, "MatMul", "/model/layers.0/attn/qkv_proj/MatMul", {"x1", "qkv"}, {"q0"});
  add_node(model, "Add", "/model/layers.0/attn/qkv_proj/Add", {"q0", "qkv_bias"}, {"q1"});
  onnx::NodeProto& attention = add_node(model, "GroupQueryAttention", "/model/layers.0/attn/GroupQueryAttention",
                                        {"q1", "", "", "", "", "mask", "mask", "cos", "sin"}, {"a"});
  attention.set_domain("com.microsoft");
  set_int(attention, "do_rotary", 1);
  set_int(attention, "local_window_size", -1);
  add_node(model, "MatMul", "/model/layers.0/attn/o_proj/MatMul", {"a", "o"}, {"x2"});
  const auto skip = [&](const char* name, const char* left, const char* right, const char* norm, const char* out,
                        const char* sum) {
    onnx::NodeProto& node =
        add_node(model, "SkipSimplifiedLayerNormalization", name, {left, right, norm}, {out, "", "", sum});
    node.set_domain("com.microsoft");
    set_float(node, "epsilon", 1e-5f);
  };
  skip("/model/layers.0/post_attention_layernorm/SkipLayerNorm", "x0", "x2", "n2", "x3", "s1");
  add_node(model, "MatMul", "/model/layers.0/mlp/gate_proj/MatMul", {"x3", "gate"}, {"g"});
  add_node(model, "MatMul", "/model/layers.0/mlp/up_proj/MatMul", {"x3", "up"}, {"u"});
  add_node(model, "Sigmoid", "/model/layers.0/mlp/act_fn/Sigmoid", {"g"}, {"gs"});
  add_node(model, "Mul", "/model/layers.0/mlp/act_fn/Mul", {"g", "gs"}, {"gg"});
  add_node(model, "Mul", "/model/layers.0/mlp/Mul", {"gg", "u"}, {"m"});
  add_node(model, "MatMul", "/model/layers.0/mlp/down_proj/MatMul", {"m", "down"}, {"x4"});
  skip("/model/layers.1/final_norm_layernorm/SkipLayerNorm", "s1", "x4", "n3", "x5", "");
  add_node(model, "MatMul", "/lm_head/MatMul", {"x5", "head"}, {"logits"});
  model.mutable_graph()->add_output()->set_name("logits");
  return model;
}

constexpr const char* kGenai = R"({"model": {"type": "llama", "vocab_size": 5, "context_length": 16, "eos_token_id": 2,
  "decoder": {"filename": "model.onnx", "head_size": 2, "hidden_size": 4, "num_attention_heads": 2,
              "num_hidden_layers": 1, "num_key_value_heads": 1}}})";

class OnnxDecoder : public testing::Test {
 protected:
  std::unique_ptr<Source> open(const onnx::ModelProto& model, const char* genai = kGenai) {
    write_text_file(folder_.path() / "model.onnx", model.SerializeAsString());
    if (genai) write_text_file(folder_.path() / "genai_config.json", genai);
    return Source::open(folder_.path());
  }
  std::string error_of(const onnx::ModelProto& model, const char* genai = kGenai) {
    try {
      open(model, genai);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  TemporaryFolder folder_;
};

TEST_F(OnnxDecoder, ReadsPackedEmbeddings) {
  onnx::ModelProto model = decoder();
  // 5 words, 4 wide: 4-bit codes, low first, in one block of 16 columns.
  std::string bytes(10, '\x98');
  bytes[6] = '\x1f', bytes[7] = '\x80';  // of word 3: 15, 1, 0, 8
  onnx::TensorProto& codes = add_bytes(model, "codes", {5, 2}, bytes);
  add_floats(model, "scales", {5, 1}, {1, 1, 1, 0.5f, 1});
  onnx::NodeProto& gather = *model.mutable_graph()->mutable_node(1);
  ASSERT_EQ(gather.op_type(), "Gather");
  gather.set_op_type("GatherBlockQuantized");
  gather.set_domain("com.microsoft");
  gather.set_input(0, "codes");
  gather.add_input("scales");
  set_int(gather, "block_size", 16);
  const auto source = open(model);
  const StoredTensor& table = source->get("model.embed_tokens.weight");
  EXPECT_EQ(table.shape(), (Shape{5, 4}));
  EXPECT_EQ(rows(table, 3, 4), (std::vector<float>{3.5f, -3.5f, -4, 0}));
  EXPECT_EQ(rows(table, 0, 1), (std::vector<float>{0, 1, 0, 1}));
  EXPECT_EQ(describe(*table.spec()), "int4 sym full-range g16");
  codes.mutable_raw_data()->pop_back();
  codes.set_dims(0, 5);
  EXPECT_NE(error_of(model), "");
}

TEST_F(OnnxDecoder, ShowsTheModelThatTheGraphWasMadeFrom) {
  const auto source = open(decoder());
  const ModelConfig config = parse_config(source->config());
  EXPECT_EQ(config.layers, 1u);
  EXPECT_EQ(config.intermediate_size, 6u);
  EXPECT_EQ(config.rope.theta, 10000.0);
  EXPECT_FLOAT_EQ(config.norm_eps, 1e-5f);
  EXPECT_FALSE(config.tied_embeddings);
  // [K, N] in the graph, rows of q, k and v are columns 0..3, 4..5 and 6..7 of it.
  EXPECT_EQ(rows(source->get("model.layers.0.self_attn.q_proj.weight"), 1, 2), (std::vector<float>{1, 9, 17, 25}));
  EXPECT_EQ(rows(source->get("model.layers.0.self_attn.k_proj.weight"), 0, 1), (std::vector<float>{4, 12, 20, 28}));
  EXPECT_EQ(rows(source->get("model.layers.0.self_attn.v_proj.weight"), 1, 2), (std::vector<float>{7, 15, 23, 31}));
  EXPECT_EQ(rows(source->get("model.layers.0.self_attn.v_proj.bias"), 0, 2), (std::vector<float>{106, 107}));
  EXPECT_EQ(rows(source->get("model.layers.0.mlp.down_proj.weight"), 2, 3), (std::vector<float>{2, 6, 10, 14, 18, 22}));
  // One tensor, seen twice.
  EXPECT_EQ(rows(source->get("lm_head.weight"), 3, 4), (std::vector<float>{3, 8, 13, 18}));
  EXPECT_EQ(rows(source->get("model.embed_tokens.weight"), 3, 4), (std::vector<float>{3, 8, 13, 18}));
  EXPECT_EQ(source->get("model.norm.weight").shape(), (Shape{4}));
  EXPECT_THAT(source->side_files(), testing::ElementsAre("genai_config.json"));
}

// Qwen3: the fused product is cut, and heads of q and k are normalized.
TEST_F(OnnxDecoder, ReadsNormsOfHeads) {
  onnx::ModelProto model = decoder();
  add_floats(model, "qn", {2}, {1, 2});
  add_floats(model, "kn", {2}, {3, 4});
  add_integers(model, "sizes", {3}, {4, 2, 2});
  add_node(model, "Split", "/model/layers.0/attn/qkv_proj/Split", {"q1", "sizes"}, {"sq", "sk", "sv"});
  add_node(model, "SimplifiedLayerNormalization", "/model/layers.0/attn/q_norm/LayerNorm", {"sq", "qn"}, {"rq"});
  add_node(model, "SimplifiedLayerNormalization", "/model/layers.0/attn/k_norm/LayerNorm", {"sk", "kn"}, {"rk"});
  std::string qwen3 = kGenai;
  qwen3.replace(qwen3.find("llama"), 5, "qwen3");
  const auto source = open(model, qwen3.c_str());
  EXPECT_EQ(rows(source->get("model.layers.0.self_attn.q_norm.weight"), 0, 2), (std::vector<float>{1, 2}));
  EXPECT_EQ(rows(source->get("model.layers.0.self_attn.k_norm.weight"), 0, 2), (std::vector<float>{3, 4}));
  EXPECT_EQ(source->config().at("model_type"), "qwen3");
  const int64_t other[] = {2, 4, 2};
  for (onnx::TensorProto& tensor : *model.mutable_graph()->mutable_initializer())
    if (tensor.name() == "sizes") tensor.set_raw_data(other, sizeof other);
  EXPECT_THAT(error_of(model, qwen3.c_str()), HasSubstr("does not cut at the ends of q and k"));
}

TEST_F(OnnxDecoder, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(error_of(decoder(), nullptr), HasSubstr("no genai_config.json"));
  onnx::ModelProto integers = decoder();
  add_node(integers, "Abs", "abs", {"x0"}, {"abs"});
  add_node(integers, "MatMulInteger", "product", {"x0", "head"}, {"integer"});
  EXPECT_THAT(error_of(integers), HasSubstr("node product is a MatMulInteger: nibble runs float graphs"));
  onnx::ModelProto other = decoder();
  other.mutable_graph()->mutable_node(12)->set_op_type("Tanh");
  EXPECT_THAT(error_of(other), HasSubstr("/model/layers.0/mlp/Mul is a Tanh"));
  onnx::ModelProto capped = decoder();
  for (onnx::NodeProto& node : *capped.mutable_graph()->mutable_node())
    if (node.op_type() == "GroupQueryAttention") set_float(node, "softcap", 30.0f);
  EXPECT_THAT(error_of(capped), HasSubstr("rotates, scales or caps"));
  onnx::ModelProto scaled = decoder();
  for (onnx::TensorProto& tensor : *scaled.mutable_graph()->mutable_initializer())
    if (tensor.name() == "sin") *tensor.mutable_raw_data() = std::string(16, '\0');
  EXPECT_THAT(error_of(scaled), HasSubstr("rotary embedding is scaled"));
  EXPECT_THAT(error_of(decoder(), R"({"model": {"type": "llama", "decoder": {}}})"),
              HasSubstr("'num_hidden_layers' is missing"));
  EXPECT_THAT(error_of(decoder(), R"({"model": 3})"), HasSubstr("genai_config.json"));
}

TEST_F(OnnxDecoder, ReadsPackedWeights) {
  onnx::ModelProto model = decoder();
  // 16 columns in one block; the second row's zero point is 3.
  std::string codes(16, '\0');
  for (size_t i = 0; i < 8; ++i) codes[i] = static_cast<char>(2 * i | ((2 * i + 1) << 4));
  codes[8] = 0x5f;
  add_bytes(model, "codes", {2, 1, 8}, codes);
  add_floats(model, "scales", {2, 1}, {0.5f, -2.0f});
  add_bytes(model, "zeros", {2}, "\x01\x03");
  onnx::NodeProto& node = add_node(model, "MatMulNBits", "packed", {"x0", "codes", "scales", "zeros"}, {"unused"});
  node.set_domain("com.microsoft");
  for (const auto& [name, value] : {std::pair("K", 16), {"N", 2}, {"bits", 4}, {"block_size", 16}})
    set_int(node, name, value);
  write_text_file(folder_.path() / "packed.onnx", model.SerializeAsString());
  const auto graph = OnnxModel::open(folder_.path() / "packed.onnx");
  const OnnxGraphIndex index(graph->graph());
  const auto weights = find_onnx_weights(*graph, index);
  const auto found = std::find_if(weights.begin(), weights.end(), [](const auto& w) { return w.name == "packed"; });
  ASSERT_NE(found, weights.end());
  const auto tensor = onnx_rows(graph, *found, "w", 0, 2);
  ASSERT_TRUE(tensor->spec());
  std::vector<float> expected;
  for (int i = 0; i < 16; ++i) expected.push_back(0.5f * static_cast<float>(i - 1));
  EXPECT_EQ(rows(*tensor, 0, 1), expected);
  EXPECT_EQ(rows(*tensor, 1, 2)[0], -2.0f * (15 - 3));
  EXPECT_EQ(rows(*tensor, 1, 2)[1], -2.0f * (5 - 3));
}

// Signed and unsigned codes, [inputs, outputs] and turned, one scale for a block, a row and the matrix.
TEST_F(OnnxDecoder, ReadsDequantizedWeights) {
  onnx::ModelProto model = decoder();
  const auto dequantize = [&](const std::string& name, int64_t axis, int64_t block) {
    onnx::NodeProto& node = add_node(model, "DequantizeLinear", name + "_dequantized", {name, name + "_scale"}, {});
    node.add_output(name + "_float");
    set_int(node, "axis", axis);
    if (block > 0) set_int(node, "block_size", block);
    for (onnx::NodeProto& each : *model.mutable_graph()->mutable_node())
      if (each.op_type() == "MatMul" && each.input(1) == name) each.set_input(1, name + "_float");
    for (int i = 0; i < model.graph().initializer_size(); ++i)
      if (model.graph().initializer(i).name() == name)
        model.mutable_graph()->mutable_initializer()->DeleteSubrange(i, 1);
  };
  dequantize("down", 0, 4);  // [6, 4] int4: blocks of four inputs, the second short
  add_bytes(model, "down", {6, 4}, std::string("\x10\x32\x54\x76\x98\xba\xdc\xfe\x10\x32\x54\x76"), onnx_type::kInt4);
  add_floats(model, "down_scale", {2, 4}, {1, 2, 3, 4, 0.5f, 1, 2, -1});
  dequantize("gate", 1, 0);  // [4, 6] uint8: a scale and a zero point for each output
  add_bytes(
      model, "gate", {4, 6},
      std::string("\x00\x01\x02\x03\x04\x05\x10\x11\x12\x13\x14\x15\x20\x21\x22\x23\x24\x25\xff\xfe\xfd\xfc\xfb\xfa",
                  24));
  add_floats(model, "gate_scale", {6}, {1, 1, 0.5f, 1, 1, 1});
  add_bytes(model, "gate_zero", {6}, std::string("\x00\x00\x02\x00\x00\x00", 6));
  model.mutable_graph()->mutable_node(model.graph().node_size() - 1)->add_input("gate_zero");
  dequantize("up", 1, 0);  // [4, 6] int8: one scale
  std::string codes(24, '\xff');
  codes.back() = '\x7f';
  add_bytes(model, "up", {4, 6}, codes, onnx_type::kInt8);
  add_floats(model, "up_scale", {}, {2});
  // A table of rows, [5, 4], in blocks along them, and the head that reads it turned.
  dequantize("head", 1, 2);
  add_bytes(model, "head", {5, 4}, std::string("\x10\x32\x54\x76\x98\xba\xdc\xfe\x0f\xf0", 10), onnx_type::kUint4);
  add_floats(model, "head_scale", {5, 2}, {1, 2, 1, 2, 1, 2, 1, 2, 1, 0.5f});
  for (onnx::NodeProto& node : *model.mutable_graph()->mutable_node()) {
    if (node.op_type() == "Gather") node.set_input(0, "head_float");
    if (node.op_type() == "Transpose") node.set_input(0, "head_float");
    if (node.name() == "/lm_head/MatMul") node.set_input(1, "table");
  }
  const auto source = open(model);
  const StoredTensor& down = source->get("model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(down.shape(), (Shape{4, 6}));
  EXPECT_EQ(describe(*down.spec()), "int4 sym full-range g4");
  EXPECT_EQ(rows(down, 1, 3), (std::vector<float>{2, 10, -14, -6, 1, 5, 6, 18, -18, -6, 4, 12}));
  EXPECT_EQ(rows(down, 3, 4)[5], -7);
  EXPECT_EQ(down.read_codes(3, 4).codes, (std::vector<uint8_t>{11, 15, 3, 7, 11, 15}));
  const StoredTensor& gate = source->get("model.layers.0.mlp.gate_proj.weight");
  EXPECT_EQ(describe(*gate.spec()), "int8 asym per channel");
  EXPECT_EQ(rows(gate, 2, 4), (std::vector<float>{0, 8, 16, 125.5f, 3, 19, 35, 252}));
  const StoredTensor& up = source->get("model.layers.0.mlp.up_proj.weight");
  EXPECT_EQ(rows(up, 5, 6), (std::vector<float>{-2, -2, -2, 254}));
  EXPECT_EQ(up.read_codes(0, 1).codes, std::vector<uint8_t>(4, 127));
  EXPECT_EQ(rows(source->get("model.embed_tokens.weight"), 4, 5), (std::vector<float>{15, 0, 0, 7.5f}));
  EXPECT_EQ(rows(source->get("lm_head.weight"), 1, 2), (std::vector<float>{4, 5, 12, 14}));
  // Damage, and what is nobody's weight.
  const auto with = [&](const std::string& name, const auto& change) {
    onnx::ModelProto damaged = model;
    for (onnx::NodeProto& node : *damaged.mutable_graph()->mutable_node())
      if (node.name() == name) change(node);
    return error_of(damaged);
  };
  EXPECT_EQ(with("", [](onnx::NodeProto&) {}), "");
  EXPECT_THAT(with("down_dequantized", [](auto& node) { node.set_input(1, "head_scale"); }), HasSubstr("scales"));
  EXPECT_THAT(with("down_dequantized", [](auto& node) { node.set_input(1, "mask"); }), HasSubstr("not constant"));
  EXPECT_THAT(with("down_dequantized", [](auto& node) { node.mutable_attribute(0)->set_i(1); }),
              HasSubstr("blocks lie along the outputs"));
  EXPECT_THAT(with("gate_dequantized", [](auto& node) { node.mutable_attribute(0)->set_i(-2); }),
              HasSubstr("a scale for each column"));
  EXPECT_THAT(with("gate_dequantized", [](auto& node) { node.mutable_attribute(0)->set_i(7); }), HasSubstr("axis 7"));
  EXPECT_THAT(with("gate_dequantized", [](auto& node) { node.set_input(2, "gate_scale"); }), HasSubstr("zero points"));
  EXPECT_THAT(with("gate_dequantized", [](auto& node) { node.set_input(0, "gate_scale"); }),
              HasSubstr("this one makes no matrix"));
}

TEST_F(OnnxDecoder, ReadsMatMulBnb4) {
  for (const int64_t block : {16, 32}) {  // the second: one scale for two rows
    onnx::ModelProto model = decoder();
    std::string bytes(16, '\x77');  // zero in NF4
    bytes[8] = '\xf0';              // of row 1: 1, -1
    add_bytes(model, "codes", {16}, bytes);
    const std::vector<float> scales = block == 16 ? std::vector<float>{1, 3} : std::vector<float>{3};
    add_floats(model, "scales", {static_cast<int64_t>(scales.size())}, scales);
    onnx::NodeProto& node = add_node(model, "MatMulBnb4", "packed", {"x0", "codes", "scales"}, {"unused"});
    node.set_domain("com.microsoft");
    for (const auto& [name, value] : {std::pair("K", int64_t{16}), {"N", 2}, {"block_size", block}, {"quant_type", 1}})
      set_int(node, name, value);
    const auto read = [&] {
      write_text_file(folder_.path() / "packed.onnx", model.SerializeAsString());
      const auto graph = OnnxModel::open(folder_.path() / "packed.onnx");
      const OnnxGraphIndex index(graph->graph());
      const auto weights = find_onnx_weights(*graph, index);
      const auto found = std::find_if(weights.begin(), weights.end(), [](const auto& w) { return w.name == "packed"; });
      return onnx_rows(graph, *found, "w", 1, 1);  // of the two rows the second
    };
    const auto tensor = read();
    EXPECT_EQ(tensor->spec().has_value(), block == 16);
    std::vector<float> expected(16);
    expected[0] = 3, expected[1] = -3;
    EXPECT_EQ(rows(*tensor, 0, 1), expected);
    if (tensor->spec()) {
      EXPECT_EQ(describe(*tensor->spec()), "nf4 g16");
      EXPECT_EQ(tensor->read_codes(0, 1).codes[1], 0);
    }
    for (const auto& [input, wrong] : {std::pair(1, "scales"), {2, "codes"}, {2, "cos"}, {2, "mask"}}) {
      onnx::NodeProto& damaged = *model.mutable_graph()->mutable_node(model.graph().node_size() - 1);
      const std::string right = damaged.input(input);
      damaged.set_input(input, wrong);
      EXPECT_THROW(read(), Error) << wrong;
      damaged.set_input(input, right);
    }
  }
}

TEST(OnnxGraphView, NamesWeightsAfterTheirNodes) {
  const auto source = open_onnx_graph(std::filesystem::path(NIBBLE_TEST_DATA) / "small.onnx");
  std::vector<std::string> names;
  for (const auto& tensor : source->tensors()) names.push_back(tensor->name());
  EXPECT_THAT(names, testing::ElementsAre("/embed/Gather", "/layers.0/up/MatMul", "/layers.0/down/MatMul",
                                          "/layers.1/first/MatMul", "/layers.2/Gemm", "/head/MatMul"));
  EXPECT_EQ(source->get("/layers.0/up/MatMul").shape(), (Shape{48, 32}));
  const auto& graph = dynamic_cast<const OnnxSource&>(*source);
  EXPECT_EQ(graph.place("/layers.1/first/MatMul").weight->nodes.size(), 2u);
  EXPECT_EQ(last_product(graph.weights())->name, "/head/MatMul");
  // The head reads the table's rows through a Transpose: the same rows.
  EXPECT_EQ(rows(source->get("/head/MatMul"), 7, 9), rows(source->get("/embed/Gather"), 7, 9));
}

}  // namespace
}  // namespace nibble
