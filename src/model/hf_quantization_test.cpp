#include "model/hf_quantization.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "core/files.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "formats/safetensors_writer.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A folder with a quantization_config and some tensors.
class HfQuantizations : public testing::Test {
 protected:
  template <class T>
  void add(const std::string& name, DType dtype, Shape shape, const std::vector<T>& values) {
    slots_.push_back({name, dtype, std::move(shape)});
    data_.emplace_back(values.size() * sizeof(T));
    std::memcpy(data_.back().data(), values.data(), data_.back().size());
  }
  std::unique_ptr<Source> open(const std::string& quantization) {
    std::ofstream(folder_ / "config.json") << R"({"dtype": "bfloat16", "quantization_config": )" << quantization << "}";
    SafeTensorsWriter writer(folder_ / "model.safetensors", slots_, {});
    for (size_t i = 0; i < slots_.size(); ++i) writer.write(i, 0, data_[i]);
    writer.finish();
    return Source::open(folder_.path());
  }
  std::string error(const std::string& quantization) {
    return error_text([&] { open(quantization); });
  }
  static std::vector<float> values(const StoredTensor& tensor) {
    std::vector<float> out(element_count(tensor.shape()));
    tensor.read_rows(0, tensor.rows(), out.data());
    tensor.release(0, tensor.rows());
    return out;
  }

  TestFolder folder_;
  std::vector<TensorSlot> slots_;
  std::vector<std::vector<std::byte>> data_;
};

TEST_F(HfQuantizations, UnknownMethodsAreNamed) {
  EXPECT_THAT(error(R"({"quant_method": "x"})"),
              HasSubstr("config.json: quantization_config: 'quant_method' \"x\"; nibble reads compressed-tensors"));
  EXPECT_THAT(error("{}"), HasSubstr("'quant_method' is missing"));
  EXPECT_THAT(error("[]"), HasSubstr("it should be an object"));
}

TEST_F(HfQuantizations, Fp8Blocks) {
  add<float>("m.weight_scale_inv", DType::kF32, {1, 2}, {2, 4});
  add<uint16_t>("norm.weight", DType::kBF16, {1}, {0x3f80});
  add<uint8_t>("m.weight", DType::kF8E4M3, {1, 4}, {0x38, 0x38, 0x38, 0xb8});
  const auto source = open(R"({"quant_method": "fp8", "weight_block_size": [2, 2]})");
  ASSERT_EQ(source->tensors().size(), 2u);
  const StoredTensor& tensor = source->get("m.weight");
  EXPECT_EQ(tensor.type_name(), "fp8");
  EXPECT_EQ(tensor.dtype(), DType::kBF16);
  EXPECT_THAT(values(tensor), ElementsAre(2, 2, 4, -4));
  EXPECT_FALSE(source->get("norm.weight").spec());
  for (const char* block : {"[2]", "[0, 2]", "[2, -2]", "7", R"({"a": 1, "b": 2})"})
    EXPECT_THAT(error(cat(R"({"quant_method": "fp8", "weight_block_size": )", block, "}")),
                HasSubstr("'weight_block_size' should be two numbers"));
  EXPECT_THAT(error(R"({"quant_method": "fp8", "fmt": "e5m2"})"), HasSubstr("'fmt' \"e5m2\""));
}

TEST_F(HfQuantizations, Mxfp4ExpertsAndLinears) {
  add<uint8_t>("experts.up_blocks", DType::kU8, {2, 1, 1, 16}, std::vector<uint8_t>(32, 0x21));
  add<uint8_t>("experts.up_scales", DType::kU8, {2, 1, 1}, {127, 128});
  add<uint8_t>("up.weight_packed", DType::kU8, {1, 16}, std::vector<uint8_t>(16, 0xa2));
  add<uint8_t>("up.weight_scale", DType::kU8, {1, 1}, {126});
  auto source = open(R"({"quant_method": "mxfp4"})");
  const StoredTensor& experts = source->get("experts.up");
  EXPECT_EQ(experts.shape(), (Shape{2, 1, 32}));
  EXPECT_EQ(values(experts)[1], 1);
  EXPECT_EQ(values(experts)[33], 2);
  const std::string packed =
      R"({"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized", "config_groups": )";
  source = open(packed + "{}}");
  EXPECT_EQ(values(source->get("up.weight"))[0], 0.5f);
  EXPECT_EQ(values(source->get("up.weight"))[1], -0.5f);
  EXPECT_THAT(error(packed + R"({"g": {"input_activations": {"num_bits": 4}}}})"),
              HasSubstr("nibble runs the weights alone"));
}

TEST_F(HfQuantizations, BitsandbytesModules) {
  add<int8_t>("m.weight", DType::kI8, {1, 2}, {127, -1});
  add<float>("m.SCB", DType::kF32, {1}, {127});
  const std::string state = R"({"quant_type": "fp4", "blocksize": 64, "dtype": "float16", "shape": [1, 2]})";
  add("f.weight.quant_state.bitsandbytes__fp4", DType::kU8, {state.size()},
      std::vector<char>(state.begin(), state.end()));
  std::vector<float> map(16);
  for (size_t i = 0; i < 16; ++i) map[i] = static_cast<float>(i) / 16;
  add("f.weight.quant_map", DType::kF32, {16}, map);
  add<float>("f.weight.absmax", DType::kF32, {1}, {16});
  add<uint8_t>("f.weight", DType::kU8, {1, 1}, {0x7a});
  const auto source = open(R"({"quant_method": "bitsandbytes"})");
  ASSERT_EQ(source->tensors().size(), 2u);
  EXPECT_THAT(values(source->get("m.weight")), ElementsAre(127, -1));
  const StoredTensor& fp4 = source->get("f.weight");
  EXPECT_FALSE(fp4.spec());
  EXPECT_EQ(fp4.type_name(), "bnb-fp4 g64");
  EXPECT_EQ(fp4.dtype(), DType::kF16);
  EXPECT_THAT(values(fp4), ElementsAre(7, 10));
}

}  // namespace
}  // namespace nibble
