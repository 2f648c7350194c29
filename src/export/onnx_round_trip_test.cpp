// Codes -> ONNX graph -> codes, for random specs. What comes back is read from the initializers by the definitions of
// the operators (ONNX Runtime's ContribOperators.md, ONNX's DequantizeLinear-21), and what is packed by our reader too.
#include <gtest/gtest.h>

#include <cmath>

#include "core/files.h"
#include "core/random.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "export/exporter.h"
#include "formats/onnx_test_model.h"
#include "model/onnx_source.h"
#include "model/onnx_tensors.h"
#include "model/source_floats.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr size_t kIn = 96, kOut = 40, kRows = 24;

// A product, a Gemm and a table, each with a weight of its own.
onnx::ModelProto graph() {
  onnx::ModelProto model = empty_onnx(21);
  model.mutable_graph()->add_input()->set_name("ids");
  add_floats(model, "table", {kRows, kIn}, std::vector<float>(kRows * kIn));
  add_floats(model, "product", {kIn, kOut}, std::vector<float>(kIn * kOut));
  add_floats(model, "gemm", {kIn, kOut}, std::vector<float>(kIn * kOut));
  add_node(model, "Gather", "/table", {"table", "ids"}, {"x"});
  add_node(model, "MatMul", "/product", {"x", "product"}, {"y"});
  onnx::NodeProto& gemm = add_node(model, "Gemm", "/gemm", {"y", "gemm"}, {"z"});
  set_int(gemm, "transA", 0);
  set_int(gemm, "transB", 1);
  model.mutable_graph()->add_output()->set_name("z");
  return model;
}

int64_t attribute(const onnx::NodeProto& node, std::string_view name, int64_t otherwise) {
  for (const onnx::AttributeProto& a : node.attribute())
    if (a.name() == name) return a.i();
  return otherwise;
}

// Initializers of one graph as numbers.
class Numbers {
 public:
  explicit Numbers(const std::filesystem::path& file) : model_(OnnxModel::open(file)) {}

  const onnx::NodeProto* node(std::string_view name) const {
    for (const onnx::NodeProto& node : model_->graph().node())
      if (node.name() == name) return &node;
    return nullptr;
  }
  const onnx::NodeProto* maker(std::string_view value) const {
    for (const onnx::NodeProto& node : model_->graph().node())
      for (const std::string& output : node.output())
        if (output == value) return &node;
    return nullptr;
  }
  OnnxTensor tensor(std::string_view name) const {
    for (const onnx::TensorProto& tensor : model_->graph().initializer())
      if (tensor.name() == name) return model_->tensor(tensor);
    throw Error(ErrorKind::kCorrupt, cat("no initializer ", name));
  }
  std::vector<float> floats(std::string_view name) const {
    const OnnxTensor t = tensor(name);
    std::vector<float> out(element_count(t.shape));
    floats_from_bytes(onnx_dtype(t.type).value(), t.bytes.data(), out.size(), out.data(), name);
    return out;
  }
  // A packed weight by our own reader.
  std::unique_ptr<StoredTensor> read(const std::string& name, size_t rows) const {
    const OnnxGraphIndex index(model_->graph());
    for (const OnnxWeight& weight : find_onnx_weights(*model_, index))
      if (weight.name == name) return onnx_rows(model_, weight, name, 0, rows);
    return nullptr;
  }
  // Field i of a stream of `bits` wide fields.
  static int field(std::span<const std::byte> bytes, size_t i, int bits) {
    const size_t at = i * static_cast<size_t>(bits);
    return (static_cast<int>(bytes[at / 8]) >> (at % 8)) & ((1 << bits) - 1);
  }

 private:
  std::shared_ptr<const OnnxModel> model_;
};

// Values [rows, cols] of the weight that a node uses.
std::vector<float> decoded(const Numbers& graph, const std::string& name, size_t rows, size_t cols) {
  const onnx::NodeProto& node = *graph.node(name);
  std::vector<float> out(rows * cols);
  if (node.op_type() == "MatMulNBits" || node.op_type() == "GatherBlockQuantized") {
    const bool table = node.op_type() == "GatherBlockQuantized";
    const auto bits = static_cast<int>(attribute(node, "bits", 4));
    const auto block = static_cast<size_t>(attribute(node, "block_size", 0));
    const int scale_input = 2, zero_input = 3;
    const OnnxTensor codes = graph.tensor(node.input(table ? 0 : 1));
    const std::vector<float> scales = graph.floats(node.input(scale_input));
    const size_t blocks = (cols + block - 1) / block;
    const bool zeros = node.input_size() > zero_input && !node.input(zero_input).empty();
    const OnnxTensor zero = zeros ? graph.tensor(node.input(zero_input)) : OnnxTensor{};
    const bool float_zeros = zeros && zero.type != onnx_type::kUint8;
    const std::vector<float> reals = float_zeros ? graph.floats(node.input(zero_input)) : std::vector<float>{};
    const auto width = static_cast<size_t>(bits);
    const size_t row_bytes = (table ? cols : blocks * block) * width / 8, zero_bytes = (blocks * width + 7) / 8;
    for (size_t r = 0; r < rows; ++r)
      for (size_t c = 0; c < cols; ++c) {
        const size_t b = c / block;
        const int code = Numbers::field(codes.bytes.subspan(r * row_bytes), c, bits);
        const float origin = !zeros ? static_cast<float>(1 << (bits - 1))
                             : float_zeros
                                 ? reals[r * blocks + b]
                                 : static_cast<float>(Numbers::field(zero.bytes.subspan(r * zero_bytes), b, bits));
        out[r * cols + c] = scales[r * blocks + b] * (static_cast<float>(code) - origin);
      }
    return out;
  }
  if (node.op_type() == "MatMulBnb4") {  // one stream of blocks for the whole matrix, high half first
    const auto block = static_cast<size_t>(attribute(node, "block_size", 0));
    const OnnxTensor codes = graph.tensor(node.input(1));
    const std::vector<float> scales = graph.floats(node.input(2));
    const auto levels = grid_levels(attribute(node, "quant_type", -1) == 1 ? Grid::kNF4 : Grid::kFP4Bnb);
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = scales[i / block] * levels[static_cast<size_t>(Numbers::field(codes.bytes, i ^ 1u, 4))];
    return out;
  }
  const std::string& weight = node.input(node.op_type() == "Gather" ? 0 : 1);
  const onnx::NodeProto* dequantize = graph.maker(weight);
  const bool transposed = node.op_type() == "MatMul" || (node.op_type() == "Gemm" && attribute(node, "transB", 0) == 0);
  const auto at = [&](size_t r, size_t c, size_t width) { return transposed ? c * rows + r : r * width + c; };
  if (!dequantize) {
    const std::vector<float> values = graph.floats(weight);
    for (size_t r = 0; r < rows; ++r)
      for (size_t c = 0; c < cols; ++c) out[r * cols + c] = values[at(r, c, cols)];
    return out;
  }
  EXPECT_EQ(dequantize->op_type(), "DequantizeLinear");
  const OnnxTensor codes = graph.tensor(dequantize->input(0));
  const std::vector<float> scales = graph.floats(dequantize->input(1));
  const int bits = codes.type == onnx_type::kInt4 || codes.type == onnx_type::kUint4 ? 4 : 8;
  const bool is_signed = codes.type == onnx_type::kInt4 || codes.type == onnx_type::kInt8;
  const auto number = [&](const OnnxTensor& t, size_t i) {
    const int value = Numbers::field(t.bytes, i, bits);
    return is_signed && value >= 1 << (bits - 1) ? value - (1 << bits) : value;
  };
  const auto block = static_cast<size_t>(attribute(*dequantize, "block_size", 0));
  // Blocks lie along the columns of W, single scales belong to its rows.
  EXPECT_EQ(attribute(*dequantize, "axis", 1), (block > 0) == transposed ? 0 : 1);
  const size_t groups = block > 0 ? (cols + block - 1) / block : 1;
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < cols; ++c) {
      const size_t scale = at(r, block > 0 ? c / block : 0, groups);
      const int zero = dequantize->input_size() > 2 ? number(graph.tensor(dequantize->input(2)), scale) : 0;
      out[r * cols + c] = scales[scale] * static_cast<float>(number(codes, at(r, c, cols)) - zero);
    }
  return out;
}

QuantSpec random_spec(Random& random) {
  constexpr Grid kGrids[] = {Grid::kInt, Grid::kInt, Grid::kInt, Grid::kInt, Grid::kNF4, Grid::kFP4Bnb, Grid::kFP8};
  constexpr int kBits[] = {1, 2, 2, 3, 4, 4, 4, 4, 6, 8, 8, 8};
  constexpr size_t kGroups[] = {8, 16, 32, 32, 48, 64, QuantSpec::kWholeRow};
  QuantSpec spec{.group = kGroups[random.next() % 7], .grid = kGrids[random.next() % 7]};
  spec.bits = spec.grid == Grid::kFP8 ? 8 : spec.grid != Grid::kInt ? 4 : kBits[random.next() % 12];
  spec.symmetric = spec.grid != Grid::kInt || random.next() % 2 == 0;
  spec.mins = !spec.symmetric && random.next() % 4 == 0;
  spec.per_tensor = random.next() % 8 == 0;
  if (spec.per_tensor) spec.group = QuantSpec::kWholeRow;
  return spec;
}

TEST(OnnxRoundTrip, WhatTheGraphHoldsIsWhatItWasGiven) {
  const TestFolder folder;
  write_text_file(folder / "graph.onnx", graph().SerializeAsString());
  const auto source = open_onnx_graph(folder / "graph.onnx");
  Random random(5);
  size_t packed = 0, floats = 0, tables = 0, read_back = 0;
  for (const char* name : {"onnx", "onnx-qdq"})
    for (int round = 0; round < 40; ++round) {
      const ExporterEntry& format = find_exporter(name);
      OutputModel model{*source, {}, DType::kF32, false, ""};
      std::vector<QuantizedMatrix> matrices;
      for (const auto& stored : source->tensors()) {
        OutputTensor tensor;
        tensor.name = stored->name();
        tensor.shape = stored->shape();
        do tensor.spec = random_spec(random);
        while (!error_text([&] { tensor.spec->validate(), format.check(tensor); }).empty());
        matrices.push_back(random_matrix(*tensor.spec, tensor.rows(), tensor.cols(), random.next()));
        // A zero point is -min / scale.
        if (tensor.spec->mins)
          for (float& scale : matrices.back().scales) scale = std::copysign(std::max(std::abs(scale), 0.25f), scale);
        model.tensors.push_back(std::move(tensor));
      }
      ASSERT_EQ(matrices.size(), 3u);
      const auto exporter = format.make(folder / "out", /*force=*/true, model);
      for (size_t i = 0; i < matrices.size(); ++i) {
        const size_t middle = 1 + random.next() % (matrices[i].rows - 1);
        exporter->write(i, middle, rows_of(matrices[i], middle, matrices[i].rows));
        exporter->write(i, 0, rows_of(matrices[i], 0, middle));
      }
      exporter->finish();
      const Numbers numbers(folder / "out/graph.onnx");
      for (size_t i = 0; i < matrices.size(); ++i) {
        const OutputTensor& tensor = model.tensors[i];
        const QuantizedMatrix& want = matrices[i];
        const std::string what = cat(name, " ", tensor.name, " ", describe(want.spec));
        const std::vector<float> got = decoded(numbers, tensor.name, want.rows, want.cols), values = values_of(want);
        const bool rounded = want.spec.mins;  // to a real zero point
        for (size_t k = 0; k < got.size(); ++k)
          ASSERT_NEAR(got[k], values[k], rounded ? 2e-3f * (1 + std::abs(values[k])) : 0.0f)
              << what << ", element " << k;
        const onnx::NodeProto& node = *numbers.node(tensor.name);
        const std::string& type = node.op_type();
        tables += type == "MatMulBnb4" ? 1 : 0;
        const bool dequantized = numbers.maker(node.input(type == "Gather" ? 0 : 1)) != nullptr;
        if (type == "MatMulNBits" || type == "MatMulBnb4" || dequantized) {
          read_back += dequantized ? 1 : 0;
          const auto stored = numbers.read(tensor.name, want.rows);
          ASSERT_TRUE(stored && stored->spec()) << what;
          EXPECT_EQ(stored->read_codes(0, stored->rows()).codes, want.codes) << what;
          std::vector<float> read(values.size());
          stored->read_rows(0, stored->rows(), read.data());
          for (size_t k = 0; k < read.size(); ++k)
            ASSERT_NEAR(read[k], values[k], want.spec.mins ? 2e-3f * (1 + std::abs(values[k])) : 0.0f) << what;
        }
        const bool plain = !node.op_type().ends_with("NBits") && !node.op_type().ends_with("Bnb4") &&
                           !node.op_type().ends_with("Quantized") &&
                           !numbers.maker(node.input(node.op_type() == "Gather" ? 0 : 1));
        (plain ? floats : packed) += 1;
      }
    }
  EXPECT_GT(packed, 60u);
  EXPECT_GT(floats, 20u);
  EXPECT_GT(tables, 4u);
  EXPECT_GT(read_back, 20u);
}

}  // namespace
}  // namespace nibble
