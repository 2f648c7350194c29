#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/checked.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "core/text.h"
#include "formats/test_damage.h"

namespace fs = std::filesystem;

namespace nibble {
namespace {

using testing::HasSubstr;

// The file with `header` (its length put in front) and `data_size` bytes 0, 1, 2, ...
std::string file_of(std::string_view header, size_t data_size) {
  const uint64_t length = header.size();
  std::string out(sizeof length, '\0');
  std::memcpy(out.data(), &length, sizeof length);
  out += header;
  for (size_t i = 0; i < data_size; ++i) out += static_cast<char>(i);
  return out;
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }
SafeTensorsFile parse(const std::string& file) { return SafeTensorsFile::parse(bytes_of(file), nullptr); }
void parse_bytes_of(std::span<const std::byte> bytes) { SafeTensorsFile::parse(bytes, nullptr); }

constexpr const char* kTwo =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
    R"("a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}  )";

TEST(SafeTensors, ReadsTensorsInFileOrder) {
  const std::string file = file_of(kTwo, 20);
  const SafeTensorsFile got = parse(file);
  EXPECT_EQ(got.metadata, (std::map<std::string, std::string>{{"format", "pt"}}));
  ASSERT_EQ(got.tensors.size(), 2u);
  EXPECT_EQ(got.tensors[0].name, "a");
  EXPECT_EQ(got.tensors[0].view.dtype, DType::kI32);
  EXPECT_EQ(got.tensors[0].view.shape, Shape{2});
  EXPECT_EQ(got.tensors[1].name, "b");
  EXPECT_EQ(got.tensors[1].view.shape, (Shape{2, 3}));
  ASSERT_EQ(got.tensors[1].view.bytes.size(), 12u);
  EXPECT_EQ(got.tensors[1].view.bytes[11], std::byte{19});
}

TEST(SafeTensors, EveryTypeHasItsSize) {
  const std::pair<const char*, size_t> types[] = {{"F64", 8},     {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1},
                                                  {"F8_E5M2", 1}, {"I64", 8}, {"I32", 4}, {"I16", 2},  {"I8", 1},
                                                  {"U64", 8},     {"U32", 4}, {"U16", 2}, {"U8", 1},   {"BOOL", 1}};
  for (const auto& [name, size] : types) {
    const std::string header =
        cat("{\"t\":{\"dtype\":\"", name, "\",\"shape\":[3],\"data_offsets\":[0,", 3 * size, "]}}");
    const std::string file = file_of(header, 3 * size);
    EXPECT_EQ(info(parse(file).tensors[0].view.dtype).name, name);
  }
  for (const char* name : {"F4", "F6_E2M3", "F8_E8M0", "C64", "Q4_0", "f32", ""}) {
    const std::string file = file_of(cat("{\"t\":{\"dtype\":\"", name, "\",\"shape\":[2],\"data_offsets\":[0,1]}}"), 1);
    EXPECT_EQ(error_text([&] { parse(file); }), cat("tensor 't': element type '", name, "' is not supported"));
    EXPECT_EQ(error_kind([&] { parse(file); }), ErrorKind::kUnsupported);
  }
}

TEST(SafeTensors, EmptyTensorsScalarsAndNoTensors) {
  EXPECT_TRUE(parse(file_of("{}", 0)).tensors.empty());
  const std::string file =
      file_of(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"F32","shape":[0,5],)"
              R"("data_offsets":[4,4]},"f":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}})",
              5);
  const SafeTensorsFile got = parse(file);
  ASSERT_EQ(got.tensors.size(), 3u);
  EXPECT_EQ(got.tensors[0].view.shape, Shape{});
  EXPECT_EQ(got.tensors[1].name, "e");
}

TEST(SafeTensors, UnknownFieldsAreSkipped) {
  const std::string file = file_of(
      R"({"t":{"x":{"dtype":[1,{"a":null}],"shape":"no"},"dtype":"U8","y":[[1.5],true],"shape":[2],"z":-1,"data_offsets":[0,2]}})",
      2);
  EXPECT_EQ(parse(file).tensors[0].view.shape, Shape{2});
}

TEST(SafeTensors, DamagedHeadersAreRefusedWithTheReason) {
  const auto expect = [](std::string_view header, size_t data, const char* text) {
    const std::string file = file_of(header, data);
    EXPECT_THAT(error_text([&] { parse(file); }), HasSubstr(text)) << header;
    EXPECT_EQ(error_kind([&] { parse(file); }), ErrorKind::kCorrupt) << header;
  };
  const auto tensor = [](std::string_view dtype, std::string_view shape, std::string_view offsets) {
    return cat("{\"t\":{\"dtype\":", dtype, ",\"shape\":", shape, ",\"data_offsets\":", offsets, "}}");
  };
  expect("", 0, "does not begin with '{'");
  expect(" {}", 0, "does not begin with '{'");
  expect("[]", 0, "does not begin with '{'");
  expect("{\"t\":1", 0, "'t' should be described by a JSON object, found the number 1");
  expect("{\"t\":{", 0, "not valid JSON at file offset 15");
  expect("{}x", 0, "not valid JSON");
  expect("{\"a\xff\":{}}", 0, "not valid JSON");
  expect("{\"t\":[]}", 0, "found an array");
  expect("{\"t\":null}", 0, "found null");
  expect("{\"t\":{}}", 0, "'t': no dtype is given");
  expect("{\"t\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "no data_offsets is given");
  expect("{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "no shape is given");
  expect(tensor("8", "[1]", "[0,1]"), 1, "'dtype' should be a string, found the number 8");
  expect(tensor("[]", "[1]", "[0,1]"), 1, "'dtype' should be a string, found an array");
  expect(tensor("\"U8\"", "1", "[0,1]"), 1, "'shape' should be a list of sizes, found the number 1");
  expect(tensor("\"U8\"", "[-1]", "[0,1]"), 1, "found the number -1");
  expect(tensor("\"U8\"", "[1.0]", "[0,1]"), 1, "found the number 1.0");
  expect(tensor("\"U8\"", "[99999999999999999999]", "[0,1]"), 1, "found the number 99999999999999999999");
  expect(tensor("\"U8\"", "[[1]]", "[0,1]"), 1, "found an array");
  expect(tensor("\"U8\"", "[{}]", "[0,1]"), 1, "found an object");
  expect(tensor("\"U8\"", "[\"1\"]", "[0,1]"), 1, "found the string '1'");
  expect(tensor("\"U8\"", "[1]", "[0]"), 1, "data_offsets has 1 numbers");
  expect(tensor("\"U8\"", "[1]", "[0,1,1]"), 1, "data_offsets has 3 numbers");
  expect(tensor("\"U8\"", "[1]", "[1,0]"), 1, "ends (0) before it begins (1)");
  expect(tensor("\"F32\"", "[2]", "[0,7]"), 7, "its F32 elements need 8 bytes, data_offsets gives 7");
  expect(tensor("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, "element count is too large");
  expect(tensor("\"F64\"", "[2305843009213693952]", "[0,0]"), 0, "too large");
  expect(tensor("\"U8\"", "[18446744073709551615]", "[0,18446744073709551615]"), 0, "too large");
  expect(tensor("\"U8\"", "[4]", "[0,4]"), 3, "the file is truncated: download it again");
  expect(tensor("\"U8\"", "[4]", "[0,4]"), 5, "the last tensor ends at file offset");
  expect(tensor("\"U8\"", "[3]", "[1,4]"), 4, "tensor 't': its data begins at file offset");
  expect(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
         2, "'t' twice");
  expect(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
         3, "tensor 'b': its data begins at file offset 114, the tensor before it ends at 115");
  expect(R"({"t":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1, "'t' has the field 'dtype' twice");
  expect(R"({"__metadata__":{"a":"1","a":"2"}})", 0, "__metadata__ has the key 'a' twice");
  expect(R"({"__metadata__":{"a":1}})", 0, "__metadata__ should hold strings only, found the number 1");
  expect(R"({"__metadata__":{"a":{}}})", 0, "__metadata__ should hold strings only");
  expect(R"({"__metadata__":{},"__metadata__":{}})", 0, "'__metadata__' twice");
}

TEST(SafeTensors, HeaderLengthIsChecked) {
  std::string file = file_of("{}", 0);
  file[0] = 3;
  EXPECT_THAT(error_text([&] { parse(file); }), HasSubstr("the header ends at file offset 11, the file has 10 bytes"));
  file[7] = 1;
  EXPECT_THAT(error_text([&] { parse(file); }), HasSubstr("more than the allowed 100000000"));
}

TEST(SafeTensors, EveryTruncationIsRefused) {
  const std::string file = file_of(kTwo, 20);
  ASSERT_TRUE(accepted(parse_bytes_of, bytes_of(file)));
  for (size_t size = 0; size < file.size(); ++size)
    EXPECT_FALSE(accepted(parse_bytes_of, bytes_of(file).first(size))) << size;
}

TEST(SafeTensors, BitFlipsNeverCrash) {
  const std::string file = file_of(R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", 0);
  std::vector<std::byte> bytes(bytes_of(file).begin(), bytes_of(file).end());
  EXPECT_EQ(accepted_bit_flips(parse_bytes_of, bytes), 0u);  // its data is missing
  bytes.resize(bytes.size() + 12);
  // Data bits, the name (7 bits that stay ASCII; two of them make a quote or a backslash at most), types of equal size.
  EXPECT_LE(accepted_bit_flips(parse_bytes_of, bytes), 12u * 8 + 8 + 4);
  const std::string two = file_of(kTwo, 20);
  EXPECT_LT(accepted_bit_flips(parse_bytes_of, bytes_of(two)), two.size() * 8);
}

TEST(SafeTensors, DeepNestingIsNoDanger) {
  const std::string file = file_of(cat("{\"t\":{\"x\":", std::string(1'000'000, '[')), 0);
  EXPECT_EQ(error_kind([&] { parse(file); }), ErrorKind::kCorrupt);
}

class SafeTensorsFolder : public testing::Test {
 protected:
  void write(const char* name, const std::string& text) { write_text_file(folder_ / name, text); }
  void write_tensors(const char* name, const std::vector<std::string>& tensors) {
    std::string header;
    for (size_t i = 0; i < tensors.size(); ++i)
      header += cat(i ? "," : "{", "\"", tensors[i], "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[", i, ",",
                    i + 1, "]}");
    write(name, file_of(header + "}", tensors.size()));
  }
  void write_index(const char* map) {
    write("model.safetensors.index.json", cat("{\"metadata\":{},\"weight_map\":", map, "}"));
  }
  std::vector<std::string> names() {
    std::vector<std::string> out;
    for (const SafeTensor& tensor : open_safetensors_folder(folder_.path())) out.push_back(tensor.name);
    return out;
  }
  std::string error() {
    return error_text([&] { open_safetensors_folder(folder_.path()); });
  }

  TestFolder folder_;
};

TEST_F(SafeTensorsFolder, OpensTheSingleFileFirst) {
  write_tensors("other.safetensors", {"x"});
  EXPECT_THAT(names(), testing::ElementsAre("x"));  // the only one
  write_tensors("model.safetensors", {"a", "b"});
  write_index(R"({"x":"other.safetensors"})");
  EXPECT_THAT(names(), testing::ElementsAre("a", "b"));
}

TEST_F(SafeTensorsFolder, OpensShardsAsTheIndexSays) {
  write_tensors("m-1.safetensors", {"a", "unnamed", "c"});
  write_tensors("m-2.safetensors", {"b", "a"});
  write_index(R"({"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors"})");
  EXPECT_THAT(names(), testing::ElementsAre("a", "c", "b"));
}

TEST_F(SafeTensorsFolder, BadIndexesAreRefused) {
  write_tensors("m-1.safetensors", {"a"});
  for (const char* shard : {"../m.safetensors", "/etc/passwd", "sub/m.safetensors", "..", "", "m\\\\x.safetensors",
                            "m.bin", ".hidden.safetensors", "a\\u0000.safetensors"}) {
    write_index(cat("{\"a\":\"", shard, "\"}").c_str());
    EXPECT_THAT(error(), HasSubstr("is not the plain name of a .safetensors file")) << shard;
  }
  write_index(R"({"a":"m-2.safetensors"})");
  EXPECT_THAT(error(), HasSubstr("m-2.safetensors is missing"));
  write_index(R"({"a":"m-1.safetensors","b":"m-1.safetensors"})");
  EXPECT_THAT(error(), HasSubstr("m-1.safetensors: tensor 'b' is missing, though model.safetensors.index.json says"));
  write_index(R"({"a":1})");
  EXPECT_THAT(error(), HasSubstr("index.json: the shard of 'a' should be a string"));
  write_index("{}");
  EXPECT_THAT(error(), HasSubstr("'weight_map' should be an object"));
  write("model.safetensors.index.json", "{}");
  EXPECT_THAT(error(), HasSubstr("index.json: 'weight_map' is missing"));
  write("model.safetensors.index.json", "[]");
  EXPECT_THAT(error(), HasSubstr("index.json: expected a JSON object"));
  write("model.safetensors.index.json", "{\"weight");
  EXPECT_THAT(error(), HasSubstr("not valid JSON"));
}

TEST_F(SafeTensorsFolder, FoldersWithoutWeightsAreExplained) {
  EXPECT_THAT(error(), HasSubstr("has no .safetensors file; give a folder with model.safetensors"));
  write("model.gguf", "x");
  EXPECT_THAT(error(), HasSubstr("it holds model.gguf: give that file itself"));
  write_tensors("a.safetensors", {"a"});
  write_tensors("b.safetensors", {"b"});
  EXPECT_THAT(error(), HasSubstr("has 2 .safetensors files but no model.safetensors.index.json"));
  EXPECT_EQ(error_kind([&] { open_safetensors_folder(folder_ / "none"); }), ErrorKind::kIo);
}

TEST_F(SafeTensorsFolder, FilesAreNamedInErrors) {
  write("model.safetensors", "short");
  EXPECT_THAT(error(), HasSubstr("model.safetensors: the file has 5 bytes"));
  write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  EXPECT_THAT(error(), HasSubstr("git lfs pull"));
}

}  // namespace
}  // namespace nibble
