#include "formats/onnx_model.h"

#include <gmock/gmock.h>

#include <numeric>

#include "core/error.h"
#include "core/files.h"
#include "formats/onnx_graph.h"
#include "formats/onnx_test_model.h"
#include "formats/onnx_wire.h"
#include "formats/test_damage.h"

namespace nibble {
namespace {

using testing::HasSubstr;

std::vector<float> counting(size_t n) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), 1.0f);
  return values;
}

// x @ w + b, w of 1200 bytes, b of 8.
onnx::ModelProto sample() {
  onnx::ModelProto model = empty_onnx();
  model.mutable_graph()->add_input()->set_name("x");
  add_floats(model, "w", {150, 2}, counting(300));
  add_floats(model, "b", {2}, {1, 2});
  add_node(model, "MatMul", "mm", {"x", "w"}, {"y"});
  add_node(model, "Add", "", {"y", "b"}, {"z"});
  model.mutable_graph()->add_output()->set_name("z");
  return model;
}

std::shared_ptr<const OnnxModel> parse(const onnx::ModelProto& model, const std::filesystem::path& folder = {}) {
  const auto text = std::make_shared<std::string>(model.SerializeAsString());
  return OnnxModel::parse(bytes_of(*text), text, folder);
}

std::string error_of(const onnx::ModelProto& model, const std::filesystem::path& folder = {}) {
  try {
    parse(model, folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::vector<float> floats(const OnnxTensor& tensor) {
  std::vector<float> values(tensor.bytes.size() / 4);
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

TEST(OnnxModel, LeavesLargeContentsWhereTheyAre) {
  const onnx::ModelProto proto = sample();
  const std::string text = proto.SerializeAsString();
  const std::string stripped = without_tensor_data(bytes_of(text));
  EXPECT_LT(stripped.size(), text.size() - 1180);
  const auto model = parse(proto);
  const OnnxTensor w = model->tensor(model->graph().initializer(0));
  EXPECT_EQ(w.shape, (Shape{150, 2}));
  EXPECT_EQ(floats(w), counting(300));
  EXPECT_EQ(floats(model->tensor(model->graph().initializer(1))), (std::vector<float>{1, 2}));
  EXPECT_EQ(model->opset(""), 21);
  EXPECT_EQ(model->opset("com.microsoft"), 0);
  EXPECT_EQ(onnx_node_name(model->graph().node(1)), "z");
}

TEST(OnnxModel, ReadsValuesFromTypedFields) {
  onnx::ModelProto proto = sample();
  onnx::TensorProto& halves = *proto.mutable_graph()->add_initializer();
  halves.set_name("halves");
  halves.set_data_type(onnx_type::kFloat16);
  halves.add_dims(2);
  halves.add_int32_data(0x3c00);
  halves.add_int32_data(0xc000);
  onnx::TensorProto& single = *proto.mutable_graph()->add_initializer();
  single.set_name("single");
  single.set_data_type(onnx_type::kFloat);
  single.add_float_data(2.5f);
  onnx::TensorProto& nibbles = *proto.mutable_graph()->add_initializer();
  nibbles.set_name("nibbles");
  nibbles.set_data_type(onnx_type::kUint4);
  nibbles.add_dims(3);
  nibbles.add_int32_data(0x21);
  nibbles.add_int32_data(0x03);
  const auto model = parse(proto);
  const OnnxTensor h = model->tensor(model->graph().initializer(2));
  ASSERT_EQ(h.bytes.size(), 4u);
  EXPECT_EQ(static_cast<int>(h.bytes[1]), 0x3c);
  EXPECT_EQ(static_cast<int>(h.bytes[3]), 0xc0);
  EXPECT_EQ(floats(model->tensor(model->graph().initializer(3))), (std::vector<float>{2.5f}));
  const OnnxTensor n = model->tensor(model->graph().initializer(4));
  EXPECT_EQ(n.bytes.size(), 2u);
  EXPECT_EQ(static_cast<int>(n.bytes[0]), 0x21);
}

TEST(OnnxModel, KeepsUnknownFields) {
  const std::string text = sample().SerializeAsString();
  // producer_name = "p" (field 2), and a node's doc_string inside a function (field 25 > 7 > 6).
  const std::string more = text + std::string("\x12\x01p", 3) + std::string("\xca\x01\x05\x3a\x03\x32\x01q", 8);
  const auto owner = std::make_shared<std::string>(more);
  const auto model = OnnxModel::parse(bytes_of(*owner), owner);
  const std::string again = model->proto().SerializeAsString();
  EXPECT_THAT(again, HasSubstr(std::string("\x12\x01p", 3)));
  EXPECT_THAT(again, HasSubstr(std::string("\x3a\x03\x32\x01q", 5)));
}

TEST(OnnxModel, PlacesInTheFileCannotBeSmuggledIn) {
  onnx::ModelProto proto = sample();
  proto.mutable_graph()->mutable_initializer(1)->clear_raw_data();
  proto.mutable_graph()->mutable_initializer(1)->set_mapped_offset(uint64_t{1} << 40);
  proto.mutable_graph()->mutable_initializer(1)->set_mapped_length(8);
  EXPECT_THAT(error_of(proto), HasSubstr("tensor b: holds 0 bytes, but its type and shape need 8"));
}

TEST(OnnxModel, ReadsExternalDataInItsFolderOnly) {
  const TemporaryFolder folder;
  std::string data(4, 'x');
  const std::vector<float> values = counting(2);
  data.append(reinterpret_cast<const char*>(values.data()), 8);
  write_text_file(folder.path() / "model.data", data);
  onnx::ModelProto proto = sample();
  onnx::TensorProto& b = *proto.mutable_graph()->mutable_initializer(1);
  b.clear_raw_data();
  b.set_data_location(1);
  const auto set = [&](const char* key, const std::string& value) {
    for (onnx::StringStringEntryProto& entry : *b.mutable_external_data())
      if (entry.key() == key) return entry.set_value(value);
    onnx::StringStringEntryProto& entry = *b.add_external_data();
    entry.set_key(key);
    entry.set_value(value);
  };
  set("location", "model.data");
  set("offset", "4");  // unaligned for a page, as writers leave it
  set("length", "8");
  const auto model = parse(proto, folder.path());
  EXPECT_EQ(floats(model->tensor(model->graph().initializer(1))), values);
  EXPECT_EQ(model->external_files(), (std::set<std::string>{"model.data"}));

  set("offset", "5");
  EXPECT_THAT(error_of(proto, folder.path()), HasSubstr("needs bytes 5 to 13 of model.data, which has 12"));
  set("offset", "18446744073709551615");
  EXPECT_THAT(error_of(proto, folder.path()), HasSubstr("which has 12"));
  set("offset", "-4");
  EXPECT_THAT(error_of(proto, folder.path()), HasSubstr("not a number of bytes"));
  set("offset", "4");
  set("length", "12");
  EXPECT_THAT(error_of(proto, folder.path()), HasSubstr("holds 12 bytes, but its type and shape need 8"));
  set("length", "8");
  set("location", "missing.data");
  EXPECT_THAT(error_of(proto, folder.path()), HasSubstr("missing.data"));
  for (const char* location : {"../../etc/passwd", "/etc/passwd", "a/../../b", ""}) {
    set("location", location);
    EXPECT_THAT(error_of(proto, folder.path()), HasSubstr("only files in the model's own folder are read")) << location;
  }
}

TEST(OnnxModel, RefusesGraphsThatCannotRun) {
  onnx::ModelProto cyclic = sample();
  cyclic.mutable_graph()->mutable_node(0)->set_input(0, "z");
  EXPECT_THAT(error_of(cyclic), HasSubstr("the graph has a cycle: node mm"));
  onnx::ModelProto undefined = sample();
  undefined.mutable_graph()->mutable_node(0)->set_input(0, "nothing");
  EXPECT_THAT(error_of(undefined), HasSubstr("node mm reads the value nothing, which nothing makes"));
  onnx::ModelProto twice = sample();
  twice.mutable_graph()->mutable_node(1)->set_output(0, "w");
  EXPECT_THAT(error_of(twice), HasSubstr("the value w is made twice"));
  onnx::ModelProto same = sample();
  *same.mutable_graph()->add_initializer() = same.graph().initializer(0);
  EXPECT_THAT(error_of(same), HasSubstr("the initializer w is there twice"));
  onnx::ModelProto output = sample();
  output.mutable_graph()->mutable_output(0)->set_name("lost");
  EXPECT_THAT(error_of(output), HasSubstr("the graph's output reads the value lost"));
  onnx::ModelProto no_graph = sample();
  no_graph.clear_graph();
  EXPECT_THAT(error_of(no_graph), HasSubstr("no graph in it"));
  onnx::ModelProto negative = sample();
  negative.mutable_graph()->mutable_initializer(0)->set_dims(0, -150);
  EXPECT_THAT(error_of(negative), HasSubstr("an extent is out of range"));
  onnx::ModelProto huge = sample();
  huge.mutable_graph()->mutable_initializer(0)->set_dims(0, int64_t{1} << 62);
  EXPECT_THAT(error_of(huge), HasSubstr("too large"));
}

TEST(OnnxModel, ReadersInSubgraphsCount) {
  onnx::ModelProto proto = sample();
  onnx::GraphProto& body = add_branch(proto, "x", "q");
  add_node(body, "Identity", {"w"}, {"inner"});
  body.add_output()->set_name("inner");
  const auto model = parse(proto);
  const OnnxGraphIndex index(model->graph());
  EXPECT_TRUE(index.read_in_subgraph("w"));
  EXPECT_FALSE(index.read_in_subgraph("inner"));
  EXPECT_EQ(index.readers("w"), (std::vector<int>{0, 2}));
}

TEST(OnnxModel, DamageIsAnErrorAndNothingElse) {
  const std::string text = sample().SerializeAsString();
  const auto accepts = [](std::span<const std::byte> bytes) { OnnxModel::parse(bytes, nullptr); };
  for (size_t size = 0; size < text.size(); ++size)
    accepted(accepts, bytes_of(text).first(size));  // the graph comes before the opset: no prefix is a model
  EXPECT_TRUE(accepted(accepts, bytes_of(text)));
  for (size_t size = 0; size + 1 < text.size(); ++size)
    EXPECT_FALSE(accepted(accepts, bytes_of(text).first(size))) << size;
  EXPECT_FALSE(accepted(accepts, std::as_bytes(std::span("plain text, no protobuf"))));
  onnx::ModelProto deep = sample();
  onnx::GraphProto* graph = deep.mutable_graph();
  for (int i = 0; i < 40; ++i) {
    onnx::NodeProto& node = *graph->add_node();
    node.add_attribute()->set_name("body");
    graph = node.mutable_attribute(0)->mutable_g();
  }
  EXPECT_THAT(error_of(deep), HasSubstr("nested more than"));
}

}  // namespace
}  // namespace nibble
