#include <gmock/gmock.h>

#include <algorithm>

#include "core/error.h"
#include "core/files.h"
#include "export/exporter.h"
#include "export/onnx_form.h"
#include "export/onnx_layout.h"
#include "formats/onnx_model.h"
#include "formats/onnx_test_model.h"
#include "model/onnx_open.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

QuantSpec spec(int bits, size_t group, bool symmetric = true) {
  QuantSpec result;
  result.bits = bits;
  result.group = group;
  result.symmetric = symmetric;
  return result;
}

std::vector<int> numbers(const std::vector<std::byte>& bytes) {
  std::vector<int> result;
  for (const std::byte byte : bytes) result.push_back(static_cast<int>(byte));
  return result;
}

TEST(OnnxLayout, BlocksAreWhatTheOperatorsHold) {
  EXPECT_EQ(onnx_block(spec(4, 32), 256), 32u);
  EXPECT_EQ(onnx_block(spec(8, 256), 128), 128u);  // a table's longest block
  EXPECT_EQ(onnx_block(spec(4, 48), 256), 16u);
  EXPECT_EQ(onnx_block(spec(2, 1024), 256), 256u);
  EXPECT_EQ(onnx_block(spec(4, QuantSpec::kWholeRow), 256), 256u);
  EXPECT_EQ(onnx_block(spec(4, 8), 256), std::nullopt);
  EXPECT_EQ(onnx_block(spec(3, 32), 256), std::nullopt);
  QuantSpec table = spec(4, 32);
  table.grid = Grid::kNF4;
  EXPECT_EQ(onnx_block(table, 256), std::nullopt);
  // MatMulBnb4's blocks end with rows too.
  EXPECT_EQ(onnx_table_block(table, 64), 32u);
  EXPECT_EQ(onnx_table_block(table, 48), 16u);
  EXPECT_EQ(onnx_table_block(table, 40), std::nullopt);
  table.group = 512;
  EXPECT_EQ(onnx_table_block(table, 1024), 256u);
  table.group = QuantSpec::kWholeRow;
  EXPECT_EQ(onnx_table_block(table, 96), 32u);
  table.grid = Grid::kFP4Bnb;
  EXPECT_EQ(onnx_table_block(table, 96), 32u);
  table.grid = Grid::kFP4;  // other levels
  EXPECT_EQ(onnx_table_block(table, 96), std::nullopt);
  EXPECT_EQ(onnx_table_block(spec(4, 32), 96), std::nullopt);
}

TEST(OnnxLayout, RowsEndWithAWholeBlock) {
  QuantizedMatrix q{.spec = spec(4, 16, false), .rows = 1, .cols = 20};
  q.codes.assign(20, 1);
  q.codes[0] = 15;
  q.codes[19] = 9;
  q.scales = {0.5f, 2.0f};
  q.zeros = {3, 12};
  const OnnxBlocks layout(q.spec, 16, 20, /*padded=*/true);
  const std::vector<int> codes = numbers(onnx_codes(q, layout));
  ASSERT_EQ(codes.size(), 16u);
  EXPECT_EQ(codes[0], 0x1f);
  EXPECT_EQ(codes[9], 0x91);
  EXPECT_EQ(codes[10], 0xcc);  // padding: the last group's zero
  EXPECT_THAT(numbers(onnx_zeros(q, layout)), ElementsAre(0xc3));
  EXPECT_EQ(onnx_scales(q, layout).size(), 8u);
  const OnnxBlocks table(q.spec, 16, 20, /*padded=*/false);
  EXPECT_EQ(onnx_codes(q, table).size(), 10u);
}

TEST(OnnxLayout, LongGroupsRepeatTheirScale) {
  QuantizedMatrix q{.spec = spec(8, QuantSpec::kWholeRow, false), .rows = 2, .cols = 48};
  q.codes.assign(96, 7);
  q.scales = {0.5f, 2.0f};
  q.zeros = {3, 200};
  const OnnxBlocks layout(q.spec, 16, 48, true);
  EXPECT_THAT(numbers(onnx_zeros(q, layout)), ElementsAre(3, 3, 3, 200, 200, 200));
}

// "MatMul(x w ) y"
std::string line(const onnx::NodeProto& node) {
  std::string text = node.op_type() + "(";
  for (const std::string& input : node.input()) text += input + " ";
  return text + ") " + node.output(0);
}

TEST(OnnxForm, OperatorsOnPackedWeightsBecomeThoseOnFloats) {
  onnx::ModelProto model;
  onnx::NodeProto& product = add_node(model, "MatMulNBits", "p", {"x", "codes", "scales", "", "", "c"}, {"y"});
  product.set_domain("com.microsoft");
  set_int(product, "bits", 4);
  const auto with_bias = onnx_with_floats(product, "w", true);
  ASSERT_EQ(with_bias.size(), 2u);
  EXPECT_EQ(line(with_bias[0]), "MatMul(x w ) " + onnx_new("y_product"));
  EXPECT_EQ(line(with_bias[1]), "Add(" + onnx_new("y_product") + " c ) y");
  EXPECT_EQ(with_bias[0].domain(), "");
  EXPECT_EQ(with_bias[0].attribute_size(), 0);
  product.mutable_input()->DeleteSubrange(3, 3);
  ASSERT_EQ(onnx_with_floats(product, "w", true).size(), 1u);
  EXPECT_EQ(line(onnx_with_floats(product, "w", true)[0]), "MatMul(x w ) y");
  const onnx::NodeProto& table =
      add_node(model, "GatherBlockQuantized", "t", {"codes", "ids", "scales", "zeros"}, {"e"});
  EXPECT_EQ(line(onnx_with_floats(table, "w", false)[0]), "Gather(w ids ) e");
  const onnx::NodeProto& gemm = add_node(model, "Gemm", "g", {"x", "v", "c"}, {"z"});
  EXPECT_EQ(line(onnx_with_floats(gemm, "w", false)[0]), "Gemm(x w c ) z");
  EXPECT_EQ(int_attribute(onnx_with_floats(gemm, "w", false)[0], "transB", 0), 1);
}

TEST(OnnxForm, TablesBecomeMatMulBnb4) {
  onnx::ModelProto model = empty_onnx();
  add_floats(model, "w", {32, 2}, std::vector<float>(64));
  const onnx::NodeProto& gemm = add_node(model, "Gemm", "g", {"x", "w", "c"}, {"y"});
  OnnxWeight weight;
  weight.rows = 2;
  weight.cols = 32;
  QuantSpec nf4 = spec(4, 32);
  nf4.grid = Grid::kNF4;
  const auto form = onnx_bnb4_form(weight, nf4);
  ASSERT_TRUE(form);
  QuantizedMatrix q{.spec = nf4, .rows = 1, .cols = 32};
  q.codes.assign(32, 7);
  q.codes[0] = 1, q.codes[1] = 15;
  q.scales = {-2.0f};
  form->write(1, q, [](size_t part, size_t offset, std::span<const std::byte> bytes) {
    EXPECT_EQ(offset, part == 0 ? 16u : 4u);
    if (part == 0) {
      EXPECT_EQ(static_cast<int>(bytes[0]), 0x1f);  // the first in the high half
    }
    EXPECT_EQ(bytes.size(), part == 0 ? 16u : 4u);
  });
  const std::vector<std::string> names = {"codes", "absmax"};
  const auto nodes = form->replace(gemm, names).nodes;
  ASSERT_EQ(nodes.size(), 2u);
  EXPECT_EQ(line(nodes[0]), "MatMulBnb4(x codes absmax ) " + onnx_new("y_product"));
  EXPECT_EQ(line(nodes[1]), "Add(" + onnx_new("y_product") + " c ) y");
  EXPECT_EQ(int_attribute(nodes[0], "quant_type", -1), 1);
  EXPECT_EQ(int_attribute(nodes[0], "block_size", 0), 32);
  weight.op = OnnxWeight::Op::kGather;
  EXPECT_FALSE(onnx_bnb4_form(weight, nf4));
}

TEST(OnnxExporter, NeedsAnOnnxSource) {
  const TemporaryFolder folder;
  const auto source = Source::open(std::filesystem::path(NIBBLE_TEST_DATA) / "models" / "llama");
  const ExporterEntry& entry = find_exporter("onnx");
  try {
    entry.make(folder.path() / "out", false, OutputModel{*source, {}, DType::kF32, false, ""});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("an ONNX model is made from an ONNX model"));
  }
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "out"));
}

TEST(OnnxExporter, PartsOfAGraphMayStayAsTheyAre) {
  const TemporaryFolder folder;
  const auto source = open_onnx_graph(std::filesystem::path(NIBBLE_TEST_DATA) / "small.onnx");
  const StoredTensor& tensor = source->get("/layers.0/up/MatMul");
  OutputModel model{*source, {}, DType::kF32, false, ""};
  model.tensors.push_back({tensor.name(), tensor.shape(), spec(4, 16), {}, DType::kF32, false});
  const auto exporter = find_exporter("onnx").make(folder.path() / "out", false, model);
  QuantizedMatrix q{.spec = spec(4, 16), .rows = 48, .cols = 32};
  q.codes.assign(48 * 32, 8);
  q.scales.assign(48 * 2, 0.25f);
  exporter->write(0, 0, q);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "out"));
  exporter->finish();
  const auto out = OnnxModel::open(folder.path() / "out" / "small.onnx");
  const auto count = [&](const std::string& type) {
    return std::count_if(out->graph().node().begin(), out->graph().node().end(),
                         [&](const onnx::NodeProto& node) { return node.op_type() == type; });
  };
  EXPECT_EQ(count("MatMulNBits"), 1);
  EXPECT_EQ(count("MatMul"), 4);
  EXPECT_EQ(out->opset("com.microsoft"), 1);
  size_t bytes = 0;
  for (const auto& initializer : out->graph().initializer()) {
    EXPECT_NE(initializer.name(), "up");  // nobody reads it any more
    bytes += out->tensor(initializer).bytes.size();
  }
  EXPECT_EQ(exporter->bytes(), bytes);
}

}  // namespace
}  // namespace nibble
