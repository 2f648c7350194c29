#include "model/hf_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "core/files.h"
#include "core/random.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "formats/safetensors.h"
#include "model/model.h"
#include "quant/compressed_config.h"
#include "quant/compressed_tensors.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(NIBBLE_TEST_DATA) / "models" / name;
}

// Without the sync of write_text_file(): these tests write thousands of files.
void put(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

void write(const std::filesystem::path& path, const std::vector<SafeTensorSlot>& slots,
           const std::vector<std::vector<std::byte>>& data) {
  SafeTensorsWriter writer(path, slots, {});
  for (size_t i = 0; i < slots.size(); ++i) writer.write(i, 0, data[i]);
  writer.finish();
}

TEST(HfSource, ConvertsEveryFloatTypeAndRefusesOthers) {
  TestFolder folder;
  put(folder / "config.json", "{}");
  write(folder / "model.safetensors",
        {{"d", DType::kF64, {2, 2}},
         {"f", DType::kF32, {2, 2}},
         {"b", DType::kBF16, {2, 2}},
         {"h", DType::kF16, {2, 2}},
         {"i", DType::kI32, {2}},
         {"s", DType::kF32, {}}},
        {bytes_of<double>({1, -2, 0.1, 4}), bytes_of<float>({1, -2, 0.5, 4}),
         bytes_of<uint16_t>({0x3f80, 0xc000, 0x3f00, 0x4080}), bytes_of<uint16_t>({0x3c00, 0xc000, 0x3800, 0x4400}),
         bytes_of<int32_t>({1, 2}), bytes_of<float>({9})});
  const auto source = Source::open(folder.path());
  const auto row = [&](const char* name, size_t r) {
    std::vector<float> values(source->get(name).cols());
    source->get(name).read_rows(r, r + 1, values.data());
    return values;
  };
  EXPECT_THAT(row("d", 1), ElementsAre(0.1f, 4.0f));
  for (const char* name : {"f", "b", "h"}) {
    EXPECT_THAT(row(name, 0), ElementsAre(1.0f, -2.0f)) << name;
    EXPECT_THAT(row(name, 1), ElementsAre(0.5f, 4.0f)) << name;
    source->get(name).release(0, 2);
  }
  EXPECT_THAT(row("s", 0), ElementsAre(9.0f));
  EXPECT_THAT(error_text([&] { row("i", 0); }), HasSubstr("tensor i is I32, which is not a type of weights"));
  EXPECT_THAT(error_text([&] { source->get("nothing"); }), HasSubstr("tensor nothing is missing"));
  EXPECT_EQ(source->find("nothing"), nullptr);
  EXPECT_TRUE(source->get("b").view());
  EXPECT_THROW(source->get("b").packed(), Error);
  EXPECT_THROW(source->get("b").read_codes(0, 1), Error);
}

TEST(HfSource, SideFilesAreWhatIsNeitherWeightsNorConfig) {
  TestFolder folder;
  std::filesystem::copy(golden("qwen3"), folder.path());
  for (const char* name : {"tokenizer.json", "tokenizer.model", "LICENSE", "chat_template.jinja", "pytorch_model.bin",
                           "model.safetensors.index.json", ".gitattributes"})
    put(folder / name, name);
  std::filesystem::create_directory(folder / "original");
  std::filesystem::remove(folder / "model.safetensors.index.json");
  std::filesystem::remove(folder / "golden.safetensors");
  const auto source = Source::open(folder.path());
  EXPECT_THAT(source->side_files(), ElementsAre("LICENSE", "chat_template.jinja", "tokenizer.json", "tokenizer.model"));
  EXPECT_EQ(source->side_file("LICENSE"), "LICENSE");
  for (const char* name : {"../LICENSE", "config.json", "model.safetensors", "", ".."})
    EXPECT_THROW(source->side_file(name), Error) << name;
  EXPECT_EQ(source->kind(), "safetensors");
}

// Quantized folders: written by the codec, presented as one tensor each, run from their packed form.
TEST(HfSource, QuantizedModulesAreOneTensorEach) {
  const auto plain = Source::open(golden("llama"));
  const QuantSpec spec{.bits = 4, .group = 32};
  const std::string module = "model.layers.0.mlp.up_proj";
  const StoredTensor& up = plain->get(module + ".weight");
  QuantizedMatrix codes{.spec = spec, .rows = 96, .cols = 64};
  for (size_t i = 0; i < 96 * 64; ++i) codes.codes.push_back(static_cast<uint8_t>(i * 7 % 16));
  for (size_t i = 0; i < 96 * 2; ++i) codes.scales.push_back(0.01f + 0.001f * static_cast<float>(i));

  CompressedEncoder encoder(spec, {}, 96, 64);
  std::vector<SafeTensorSlot> slots;
  std::vector<std::vector<std::byte>> data;
  for (const CompressedSlot& slot : encoder.slots()) {
    slots.push_back({cat(module, ".", slot.suffix), slot.dtype, slot.shape});
    data.emplace_back(byte_size(slot.dtype, element_count(slot.shape)));
  }
  const auto sink = [&](size_t slot, size_t offset, std::span<const std::byte> bytes) {
    std::copy(bytes.begin(), bytes.end(), data[slot].begin() + static_cast<std::ptrdiff_t>(offset));
  };
  encoder.write(0, codes, sink);
  encoder.finish(sink);
  for (const auto& tensor : plain->tensors())
    if (tensor.get() != &up) {
      slots.push_back({tensor->name(), tensor->dtype(), tensor->shape()});
      const auto view = tensor->view();
      data.emplace_back(view->bytes.begin(), view->bytes.end());
    }
  TestFolder folder;
  CompressedConfig quantization;
  quantization.groups.push_back({{"Linear"}, spec, {}, "pack-quantized"});
  quantization.ignore = {"lm_head"};
  Json config = plain->config();
  config["quantization_config"] = to_json(quantization);
  put(folder / "config.json", config.dump());
  write(folder / "model.safetensors", slots, data);

  const auto source = Source::open(folder.path());
  EXPECT_FALSE(source->config().contains("quantization_config"));
  EXPECT_EQ(source->tensors().size(), plain->tensors().size());
  const StoredTensor& stored = source->get(module + ".weight");
  ASSERT_TRUE(stored.spec());
  EXPECT_EQ(stored.type_name(), "int4");
  EXPECT_EQ(stored.shape(), (Shape{96, 64}));
  EXPECT_EQ(stored.read_codes(5, 9).codes,
            std::vector<uint8_t>(codes.codes.begin() + 5 * 64, codes.codes.begin() + 9 * 64));
  std::vector<float> want(96 * 64), got(want.size());
  dequantize(codes, matrix(want.data(), 96, 64));
  stored.read_rows(0, 96, got.data());
  EXPECT_EQ(got, want);
  stored.release(0, 96);

  const auto model = Model::load(*source);
  const auto dense = Model::load(
      *source,
      {.dtype = {}, .replace = [&](const StoredTensor& tensor) -> std::optional<WeightMatrix> {
         if (!tensor.spec()) return std::nullopt;
         const auto floats = std::make_shared<std::vector<float>>(want);
         return WeightMatrix(DenseMatrix{DType::kF32, 96, 64, std::as_bytes(std::span(*floats)).data(), floats});
       }});
  EXPECT_LT(model->weight_bytes(), dense->weight_bytes());
  const std::vector<TokenId> ids = {5, 6, 7, 8, 9};
  std::vector<float> a(256), b(256);
  model->forward(ids, *model->make_cache(8, CacheType::kF32), matrix(a.data(), 1, 256));
  dense->forward(ids, *dense->make_cache(8, CacheType::kF32), matrix(b.data(), 1, 256));
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-3);

  config["quantization_config"]["config_groups"]["group_0"]["targets"] = {"model.nothing"};
  put(folder / "config.json", config.dump());
  EXPECT_THAT(error_text([&] { Source::open(folder.path()); }),
              HasSubstr("model.layers.0.mlp.up_proj is stored quantized, but no group"));
}

// Half-precision files are used where they lie, and unaligned ones are copied.
TEST(HfSource, WeightsAreViewsOfTheMapping) {
  for (const bool aligned : {true, false}) {
    TestFolder folder;
    const auto plain = Source::open(golden("qwen2"));
    std::vector<SafeTensorSlot> slots;
    std::vector<std::vector<std::byte>> data;
    if (!aligned) slots.push_back({"odd", DType::kU8, {1}}), data.push_back({std::byte{0}});
    for (const auto& tensor : plain->tensors()) {
      const auto view = tensor->view();
      std::vector<std::byte> halves(view->bytes.size() / 2);
      for (size_t i = 0; i < halves.size() / 2; ++i)
        std::memcpy(halves.data() + 2 * i, view->bytes.data() + 4 * i + 2, 2);
      slots.push_back({tensor->name(), DType::kBF16, tensor->shape()});
      data.push_back(halves);
    }
    put(folder / "config.json", plain->config().dump());
    write(folder / "model.safetensors", slots, data);
    const auto source = Source::open(folder.path());
    const auto view = source->get("model.layers.1.mlp.down_proj.weight").view();
    size_t seen = 0;
    const auto model = Model::load(
        *source, {.dtype = {}, .replace = [&](const StoredTensor& tensor) -> std::optional<WeightMatrix> {
                    if (tensor.name().ends_with("_proj.weight") || tensor.name() == "model.embed_tokens.weight") ++seen;
                    return std::nullopt;
                  }});
    EXPECT_EQ(seen, 15u);  // every matrix is offered
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view->bytes.data()) % 2 == 0, aligned);
    std::vector<float> logits(256);
    model->forward(std::vector<TokenId>{1, 2, 3}, *model->make_cache(3, CacheType::kBF16),
                   matrix(logits.data(), 1, 256));
    EXPECT_THAT(logits, testing::Each(testing::Truly([](float logit) { return std::isfinite(logit); })));
  }
}

TEST(HfSource, PrefixesOfConfigAndWeightsAreErrors) {
  TestFolder folder;
  const std::string config = read_text_file(golden("qwen3") / "config.json"),
                    weights = read_text_file(golden("qwen3") / "model.safetensors");
  put(folder / "model.safetensors", weights);
  const auto fails = [&] { return error_text([&] { Model::load(*Source::open(folder.path())); }); };
  const size_t closing = config.rfind('}');
  for (size_t n = 0; n <= closing; ++n) {
    put(folder / "config.json", config.substr(0, n));
    EXPECT_THAT(fails(), HasSubstr("config.json")) << n;
  }
  put(folder / "config.json", config);
  EXPECT_EQ(fails(), "");
  uint64_t header = 0;
  std::memcpy(&header, weights.data(), sizeof header);
  for (size_t n = 0; n < weights.size(); n += n < header + 64 ? 7 : 4099) {
    put(folder / "model.safetensors", weights.substr(0, n));
    EXPECT_THAT(fails(), HasSubstr("model.safetensors")) << n;
  }
}

TEST(HfSource, FlippedBitsNeverCrash) {
  TestFolder folder;
  const std::string config = read_text_file(golden("llama") / "config.json"),
                    weights = read_text_file(golden("llama") / "model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, weights.data(), sizeof header);
  Random random(1);
  const auto try_all = [&](const char* name, const std::string& whole, size_t range) {
    for (int round = 0; round < 300; ++round) {
      std::string damaged = whole;
      const size_t at = random.next() % range;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << random.next() % 8));
      put(folder / name, damaged);
      error_text([&] {
        const auto model = Model::load(*Source::open(folder.path()));
        if (model->config().vocab_size > 4096) return;
        std::vector<float> logits(model->config().vocab_size);
        model->forward(std::vector<TokenId>{0}, *model->make_cache(2, CacheType::kF32),
                       matrix(logits.data(), 1, logits.size()));
      });
    }
    put(folder / name, whole);
  };
  put(folder / "model.safetensors", weights);
  try_all("config.json", config, config.size());
  try_all("model.safetensors", weights, 8 + header);
}

}  // namespace
}  // namespace nibble
