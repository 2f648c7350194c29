#include "formats/onnx_writer.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "formats/onnx_test_model.h"

namespace nibble {
namespace {

constexpr size_t kWidth = 1000;

// Two initializers of 8000 and one of 4 bytes, and a constant of 4000 bytes in a node.
void write_sample(const std::filesystem::path& path) {
  onnx::ModelProto model = empty_onnx();
  add_floats(model, "kept", {2, kWidth}, std::vector<float>(2 * kWidth, 1.5f));
  add_floats(model, "new", {2, kWidth}, std::vector<float>(2 * kWidth, 0.0f));
  add_floats(model, "small", {1}, {3});
  onnx::NodeProto& constant = add_node(model, "Constant", "c", {}, {"constant"});
  onnx::AttributeProto& value = *constant.add_attribute();
  value.set_name("value");
  value.set_type(4);
  onnx::ModelProto other = empty_onnx();
  *value.mutable_t() = add_floats(other, "t", {kWidth}, std::vector<float>(kWidth, -2.0f));
  add_node(model, "Sum", "sum", {"kept", "new", "small", "constant"}, {"y"});
  model.mutable_graph()->add_output()->set_name("y");
  write_text_file(path, model.SerializeAsString());
}

float value_at(const OnnxTensor& tensor, size_t index) {
  float value = 0;
  std::memcpy(&value, tensor.bytes.data() + index * sizeof value, sizeof value);
  return value;
}

// Writes the sample again with other contents of "new", reads it back.
std::shared_ptr<const OnnxModel> rewrite(const std::filesystem::path& folder, size_t embed_bytes) {
  write_sample(folder / "in.onnx");
  const auto source = OnnxModel::open(folder / "in.onnx");
  std::filesystem::create_directory(folder / "out");
  OnnxWriter writer(folder / "out", "model.onnx", {2 * kWidth * sizeof(float)}, embed_bytes);
  const std::vector<float> row(kWidth, 7.0f), other(kWidth, 8.0f);
  writer.write(0, kWidth * sizeof(float), std::as_bytes(std::span(other)));
  writer.write(0, 0, std::as_bytes(std::span(row)));
  onnx::ModelProto model = source->proto();
  writer.finish(model, {{"new", 0}}, *source);
  const auto out = OnnxModel::open(folder / "out" / "model.onnx");
  EXPECT_EQ(value_at(out->tensor(out->graph().initializer(0)), kWidth), 1.5f);
  EXPECT_EQ(value_at(out->tensor(out->graph().initializer(1)), kWidth - 1), 7.0f);
  EXPECT_EQ(value_at(out->tensor(out->graph().initializer(1)), kWidth), 8.0f);
  EXPECT_EQ(value_at(out->tensor(out->graph().initializer(2)), 0), 3.0f);
  EXPECT_EQ(value_at(out->tensor(out->graph().node(0).attribute(0).t()), kWidth - 1), -2.0f);
  return out;
}

TEST(OnnxWriter, SmallModelsAreOneFile) {
  const TemporaryFolder folder;
  const auto out = rewrite(folder.path(), OnnxWriter::kEmbedBytes);
  EXPECT_TRUE(out->external_files().empty());
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "out" / "model.onnx.data"));
}

TEST(OnnxWriter, LargeModelsKeepTheirDataOutside) {
  const TemporaryFolder folder;
  const auto out = rewrite(folder.path(), 1000);
  EXPECT_EQ(out->external_files(), (std::set<std::string>{"model.onnx.data"}));
  EXPECT_EQ(std::filesystem::file_size(folder.path() / "out" / "model.onnx.data"), 16000u);
  EXPECT_LT(std::filesystem::file_size(folder.path() / "out" / "model.onnx"), 5000u);
}

}  // namespace
}  // namespace nibble
