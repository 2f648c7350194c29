#include "formats/torch_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/files.h"
#include "core/mapped_file.h"
#include "core/random.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "formats/pickle.h"
#include "formats/test_damage.h"
#include "formats/torch_writer.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Written by PyTorch, see make_torch_samples.py.
std::filesystem::path sample(const char* name) {
  return std::filesystem::path(NIBBLE_TEST_DATA) / "torch" / (std::string(name) + ".bin");
}

std::map<std::string, TensorView> by_name(std::vector<NamedTensor> tensors) {
  std::map<std::string, TensorView> map;
  for (NamedTensor& tensor : tensors) map.emplace(std::move(tensor.name), std::move(tensor.view));
  return map;
}

template <class T>
std::vector<T> values(const TensorView& view) {
  std::vector<T> out(view.bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), view.bytes.data(), view.bytes.size());
  return out;
}

class TorchSample : public testing::TestWithParam<const char*> {};

TEST_P(TorchSample, IsReadAsItWasSaved) {
  const auto tensors = by_name(open_torch_file(sample(GetParam())));
  EXPECT_EQ(tensors.at("plain").shape, (Shape{2, 3}));
  EXPECT_THAT(values<float>(tensors.at("plain")), ElementsAre(0, .25f, .5f, .75f, 1, 1.25f));
  EXPECT_EQ(tensors.at("transposed").shape, (Shape{3, 2}));
  EXPECT_THAT(values<float>(tensors.at("transposed")), ElementsAre(0, .75f, .25f, 1, .5f, 1.25f));
  EXPECT_THAT(values<float>(tensors.at("tail")), ElementsAre(.5f, .75f, 1, 1.25f));
  EXPECT_EQ(tensors.at("tail").bytes.data(), tensors.at("plain").bytes.data() + 8);  // nothing was copied
  EXPECT_EQ(tensors.at("half").dtype, DType::kF16);
  EXPECT_THAT(values<uint16_t>(tensors.at("half")), ElementsAre(0, 0x3400, 0x3800, 0x3a00, 0x3c00, 0x3d00));
  EXPECT_THAT(values<uint16_t>(tensors.at("brain")), ElementsAre(0, 0x3e80, 0x3f00, 0x3f40, 0x3f80, 0x3fa0));
  EXPECT_THAT(values<float>(tensors.at("parameter")), ElementsAre(0, .25f, .5f));
}

INSTANTIATE_TEST_SUITE_P(Both, TorchSample, testing::Values("archive", "stream"));

TEST(TorchCheckpoint, ReadsEveryType) {
  const auto tensors = by_name(open_torch_file(sample("archive")));
  EXPECT_EQ(tensors.size(), 11u);  // "step" is a number
  EXPECT_EQ(tensors.at("scalar").shape, Shape{});
  EXPECT_THAT(values<int64_t>(tensors.at("scalar")), ElementsAre(7));
  EXPECT_EQ(tensors.at("empty").shape, (Shape{0, 3}));
  EXPECT_EQ(tensors.at("empty").bytes.size(), 0u);
  EXPECT_EQ(tensors.at("flags").dtype, DType::kBool);
  EXPECT_EQ(tensors.at("eight").dtype, DType::kF8E4M3);
  EXPECT_THAT(values<uint8_t>(tensors.at("eight")), ElementsAre(0, 0x28, 0x30, 0x34, 0x38, 0x3a));
  EXPECT_EQ(tensors.at("words").dtype, DType::kU16);
  EXPECT_THAT(values<uint16_t>(tensors.at("words")), ElementsAre(1, 65535));
}

TEST(TorchCheckpoint, TruncatedAndDamagedFilesAreRefused) {
  const auto parse = [](std::span<const std::byte> bytes) {
    for (const NamedTensor& tensor : parse_torch_checkpoint(bytes, nullptr)) values<uint8_t>(tensor.view);
  };
  for (const char* name : {"archive", "stream"}) {
    const std::string text = read_text_file(sample(name));
    const auto bytes = std::as_bytes(std::span(text));
    for (size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(accepted(parse, bytes.first(size))) << size;
    std::vector<std::byte> damaged(bytes.begin(), bytes.end());
    Random random(5);
    for (int i = 0; i < 1000; ++i) {
      const auto at = static_cast<size_t>(random.uniform() * static_cast<double>(bytes.size()));
      damaged[at] = static_cast<std::byte>(random.uniform() * 256);
      accepted(parse, damaged);
      if (i % 4 == 3) damaged.assign(bytes.begin(), bytes.end());
    }
  }
}

// A state dict with one tensor of float32 over a storage of `elements`, as its four numbers say.
std::string one_tensor(size_t elements, size_t offset, std::vector<size_t> shape, std::vector<size_t> strides,
                       size_t described) {
  PickleWriter pickle;
  pickle.opcode('}');
  pickle.text("t");
  pickle.global("torch._utils", "_rebuild_tensor_v2");
  pickle.opcode('(');
  pickle.opcode('(');
  pickle.text("storage");
  pickle.global("torch", "FloatStorage");
  pickle.text("0");
  pickle.text("cpu");
  pickle.integer(described);
  pickle.opcode('t');
  pickle.opcode('Q');
  pickle.integer(offset);
  pickle.tuple(shape);
  pickle.tuple(strides);
  pickle.boolean(false);
  pickle.opcode('N');
  pickle.opcode('t');
  pickle.opcode('R');
  pickle.opcode('s');
  const std::string description = pickle.finish();
  TestFolder folder;
  ZipWriter writer(folder / "x", {{"x/data.pkl", description.size()}, {"x/data/0", elements * 4}});
  writer.write(0, 0, std::as_bytes(std::span(description)));
  std::vector<float> data(elements);
  for (size_t i = 0; i < elements; ++i) data[i] = static_cast<float>(i);
  writer.write(1, 0, std::as_bytes(std::span(data)));
  writer.finish();
  return read_text_file(folder / "x");
}

TEST(TorchCheckpoint, TensorsStayInsideTheirStorage) {
  const auto error = [](size_t offset, std::vector<size_t> shape, std::vector<size_t> strides, size_t described = 6) {
    const std::string file = one_tensor(6, offset, std::move(shape), std::move(strides), described);
    return error_text([&] { parse_torch_checkpoint(std::as_bytes(std::span(file)), nullptr); });
  };
  constexpr size_t kHuge = size_t{1} << 62;
  EXPECT_EQ(error(0, {2, 3}, {3, 1}), "");
  EXPECT_EQ(error(6, {0}, {1}), "");
  EXPECT_EQ(error(5, {1, 1}, {100, 77}), "");  // strides of extents of one say nothing
  EXPECT_THAT(error(1, {2, 3}, {3, 1}), HasSubstr("tensor 't': it reaches element 6 of a storage of 6"));
  EXPECT_THAT(error(7, {0}, {1}), HasSubstr("it begins at element 7"));
  EXPECT_THAT(error(kHuge, {1}, {1}), HasSubstr("the offset of a tensor is too large"));
  EXPECT_THAT(error(0, {kHuge, kHuge}, {1, 1}), HasSubstr("too large"));
  EXPECT_THAT(error(0, {3, 3}, {kHuge, kHuge}), HasSubstr("too large"));
  EXPECT_THAT(error(0, {2, 3}, {1}), HasSubstr("2 extents and 1 strides"));
  EXPECT_THAT(error(0, {100, 6}, {0, 1}), HasSubstr("its elements overlap"));
  EXPECT_THAT(error(0, {3, 2}, {1, 1}), HasSubstr("its elements overlap"));
  EXPECT_THAT(error(0, {6}, {1}, 7), HasSubstr("storage '0' has 24 bytes, its 7 elements of F32 need 28"));
}

TEST(TorchCheckpoint, GathersWhatDoesNotLieDense) {
  const std::string file = one_tensor(24, 1, {2, 3, 2}, {1, 8, 4}, 24);
  const auto tensors = parse_torch_checkpoint(std::as_bytes(std::span(file)), nullptr);
  EXPECT_THAT(values<float>(tensors.at(0).view), ElementsAre(1, 5, 9, 13, 17, 21, 2, 6, 10, 14, 18, 22));
}

TEST(TorchCheckpoint, OtherFilesAreExplained) {
  const auto error = [](const std::string& text) {
    return error_text([&] { parse_torch_checkpoint(std::as_bytes(std::span(text)), nullptr); });
  };
  EXPECT_THAT(error("version https://git-lfs.github.com/spec/v1"), HasSubstr("git lfs pull"));
  EXPECT_THAT(error("GGUF"), HasSubstr("no checkpoint of torch.save"));
  const auto archive = [&](const std::string& member, const std::string& text) {
    TestFolder folder;
    ZipWriter writer(folder / "x", {{"x/data.pkl", text.size()}, {member, 0}});
    writer.write(0, 0, std::as_bytes(std::span(text)));
    writer.finish();
    return error(read_text_file(folder / "x"));
  };
  const std::string list = "\x80\x02].";
  EXPECT_THAT(archive("x/constants.pkl", list), HasSubstr("a TorchScript program"));
  EXPECT_THAT(archive("x/version", list), HasSubstr("it holds no dict"));
  EXPECT_THAT(archive("x/byteorder", list), HasSubstr("big-endian"));
  EXPECT_THAT(archive("x/version", "\x80\x02}X\x05"), HasSubstr("it ends where"));
  EXPECT_THAT(archive("x/version", "\x80\x02}K\x01Ns."), HasSubstr("a key of its dict is not text"));
  EXPECT_THAT(archive("x/version", "\x80\x02}U\x05model}s."), HasSubstr("entry 'model' is no tensor"));
  EXPECT_THAT(archive("x/version", "\x80\x02}U\x01xcnumpy\nndarray\n)Rs."), HasSubstr("asks for 'numpy.ndarray'"));
}

TEST(TorchWriter, WritesWhatItReads) {
  TestFolder folder;
  const std::vector<TensorSlot> slots = {{"a.weight", DType::kF32, {2, 2}}, {"b", DType::kBF16, {3}},
                                         {"c", DType::kF8E5M2, {2}},        {"d", DType::kU32, {}},
                                         {"e", DType::kF32, {0, 4}},        {"f", DType::kI64, {1}}};
  TorchWriter writer(folder / "best_model.pt", slots, {{"alias.weight", 0}});
  EXPECT_EQ(writer.data_bytes(), 16u + 6 + 2 + 4 + 8);
  const std::vector<float> a = {1, 2, 3, 4};
  writer.write(0, 8, std::as_bytes(std::span(a)).subspan(8));
  writer.write(0, 0, std::as_bytes(std::span(a)).first(8));
  for (size_t i = 1; i < slots.size(); ++i) {
    const std::vector<std::byte> bytes(byte_size(slots[i].dtype, element_count(slots[i].shape)), std::byte{7});
    writer.write(i, 0, bytes);
  }
  writer.finish();
  const auto stored = open_torch_file(folder / "best_model.pt");
  ASSERT_EQ(stored.size(), 7u);
  for (size_t i = 0; i < slots.size(); ++i) {
    EXPECT_EQ(stored[i].name, slots[i].name);
    EXPECT_EQ(stored[i].view.dtype, slots[i].dtype);
    EXPECT_EQ(stored[i].view.shape, slots[i].shape);
  }
  EXPECT_EQ(values<float>(stored[0].view), a);
  EXPECT_EQ(stored[6].name, "alias.weight");
  EXPECT_EQ(stored[6].view.bytes.data(), stored[0].view.bytes.data());
  EXPECT_THAT(error_text([&] { TorchWriter(folder / "x", slots, {{"b", 0}}); }), HasSubstr("would be called 'b'"));
  EXPECT_THAT(error_text([&] {
                TorchWriter(folder / "x", {{"q", DType::kQ4_0, {32}}}, {});
              }),
              HasSubstr("'q': torch cannot hold Q4_0"));
}

TEST(TorchFolder, FindsOneFileOrShardsOrOurs) {
  TestFolder folder;
  const auto write = [&](const char* file, const char* tensor) {
    std::filesystem::create_directories((folder / file).parent_path());
    TorchWriter writer(folder / file, {{tensor, DType::kF32, {1}}}, {});
    const float one = 1;
    writer.write(0, 0, std::as_bytes(std::span(&one, 1)));
    writer.finish();
  };
  EXPECT_FALSE(is_torch_folder(folder.path()));
  write("saved_results/best_model.pt", "ours");
  EXPECT_TRUE(is_torch_folder(folder.path()));
  EXPECT_EQ(open_torch_folder(folder.path()).at(0).name, "ours");
  write("shard-1.bin", "a");
  write("shard-2.bin", "b");
  const auto index = [&](const char* text) { write_text_file(folder / "pytorch_model.bin.index.json", text); };
  index(R"({"weight_map": {"a": "shard-1.bin", "b": "shard-2.bin"}})");
  EXPECT_EQ(open_torch_folder(folder.path()).size(), 2u);
  index(R"({"weight_map": {"a": "shard-2.bin"}})");
  EXPECT_THAT(error_text([&] { open_torch_folder(folder.path()); }), HasSubstr("shard-2.bin: tensor 'a' is missing"));
  index(R"({"weight_map": {"a": "../shard-2.bin"}})");
  EXPECT_THAT(error_text([&] { open_torch_folder(folder.path()); }), HasSubstr("not the plain name of a .bin file"));
  write("pytorch_model.bin", "single");
  EXPECT_EQ(open_torch_folder(folder.path()).at(0).name, "single");
  write_text_file(folder / "model.safetensors", "");
  EXPECT_FALSE(is_torch_folder(folder.path()));
}

}  // namespace
}  // namespace nibble
