// Scales of E4M3 keys and values, as --kv-cache-scheme asks for them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "core/error.h"
#include "core/random.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "core/threads.h"
#include "formats/safetensors.h"
#include "model/kv_cache.h"
#include "model/model.h"
#include "pipeline/quantize.h"
#include "pipeline/recipe.h"

namespace nibble {
namespace {

using testing::Contains;
using testing::HasSubstr;

std::vector<std::vector<TokenId>> documents() {
  Random random(5);
  std::vector<std::vector<TokenId>> all(4);
  for (auto& document : all)
    for (size_t t = 0; t < 40; ++t) document.push_back(static_cast<TokenId>(3 + random.next() % 200));
  return all;
}

struct Peaks {
  float key = 0, value = 0;
};

// The largest magnitudes in each layer of the cache after a plain run of the model on each document.
std::vector<Peaks> peaks_in_cache(const Source& source) {
  const auto model = Model::load(source, {});
  std::vector<Peaks> peaks(model->config().layers);
  for (const auto& tokens : documents()) {
    const auto held = model->make_cache(tokens.size(), CacheType::kF32);
    std::vector<float> logits(tokens.size() * model->config().vocab_size);
    model->forward(tokens, *held, matrix(logits.data(), tokens.size(), model->config().vocab_size));
    const auto& cache = dynamic_cast<const SlabCache&>(*held);
    for (size_t layer = 0; layer < peaks.size(); ++layer) {
      CacheRange ranges[SlabCache::kMaxRanges];
      cache.ranges(layer, tokens.size() - 1, ranges);
      for (size_t head = 0; head < cache.kv_heads(); ++head) {
        const auto* const keys = static_cast<const float*>(ranges[0].store->keys(head, 0).data);
        const auto* const values = static_cast<const float*>(ranges[0].store->values(head, 0).data);
        for (size_t t = 0; t < tokens.size(); ++t)
          for (size_t c = 0; c < cache.head_dim(); ++c) {
            const size_t panel = t / kernels::kKvPanel, lane = t % kernels::kKvPanel;
            const float key = keys[(panel * cache.width() + c) * kernels::kKvPanel + lane];
            peaks[layer].key = std::max(peaks[layer].key, std::abs(key));
            peaks[layer].value = std::max(peaks[layer].value, std::abs(values[t * cache.width() + c]));
          }
      }
    }
  }
  return peaks;
}

// Stops a run when block 2 is at work.
class StopAtSecond final : public Progress {
 public:
  void update(size_t, size_t, std::string_view note) override {
    if (note.starts_with("block 2/")) throw Error(ErrorKind::kInterrupted, "stopped");
  }
};

class CacheScales : public testing::Test {
 protected:
  CacheScales() {
    std::string ids;
    for (const auto& document : documents()) {
      ids += "[";
      for (const TokenId id : document) ids += std::to_string(id) + ",";
      ids.back() = ']';
      ids += "\n";
    }
    write_text_file(folder_ / "ids.jsonl", ids);
    request_.scheme = "W8A16";
    request_.calibration.from = (folder_ / "ids.jsonl").string();
    request_.bf16 = false;
    apply_recipe({{"kv_cache_scheme", "fp8"}}, request_);
  }

  void open(const char* model) { source_ = Source::open(std::filesystem::path(NIBBLE_TEST_DATA) / "models" / model); }

  QuantizePlan run(const std::string& out, const char* format = "hf", RunOptions options = {},
                   Progress& progress = no_progress()) {
    const auto formats = parse_formats(format);
    QuantizePlan plan = make_plan(*source_, request_, formats.front());
    bytes_ = run_plan(*source_, plan, formats, folder_ / out, options, progress).bytes;
    return plan;
  }

  // By name; their views keep the file open.
  std::map<std::string, SafeTensor> tensors(const std::string& out) const {
    std::map<std::string, SafeTensor> all;
    for (const SafeTensor& tensor : SafeTensorsFile::open(folder_ / out / "model.safetensors").tensors)
      all[tensor.name] = tensor;
    return all;
  }
  std::string bytes(const std::string& out) const { return read_text_file(folder_ / out / "model.safetensors"); }

  TestFolder folder_;
  std::unique_ptr<Source> source_;
  QuantizeRequest request_;
  size_t bytes_ = 0;
};

// Several kv heads, and in qwen3 a norm of the keys. What the written model itself puts into its cache is the oracle.
class CacheScalesOf : public CacheScales, public testing::WithParamInterface<const char*> {};

TEST_P(CacheScalesOf, SpanWhatTheWrittenModelCaches) {
  open(GetParam());
  request_.algorithm = "awq,gptq";  // moves factors into v_proj
  const QuantizePlan plan = run("out");
  EXPECT_EQ(bytes_, plan.bytes_after);
  const auto written = Source::open(folder_ / "out");
  EXPECT_THAT(written->notes(), Contains(HasSubstr("--kv-cache")));
  const std::vector<Peaks> peaks = peaks_in_cache(*written);
  const auto written_tensors = tensors("out");
  for (size_t layer = 0; layer < peaks.size(); ++layer)
    for (const auto& [name, peak] :
         {std::pair("k_scale", peaks[layer].key), std::pair("v_scale", peaks[layer].value)}) {
      const auto tensor = written_tensors.find(cat("model.layers.", layer, ".self_attn.", name));
      ASSERT_NE(tensor, written_tensors.end());
      EXPECT_EQ(tensor->second.view.dtype, DType::kF32);
      EXPECT_EQ(tensor->second.view.shape, Shape{1});
      float scale = 0;
      std::memcpy(&scale, tensor->second.view.bytes.data(), sizeof scale);
      EXPECT_GT(peak, 0);
      EXPECT_NEAR(scale, peak / 448, 1e-5F * scale) << name << " of layer " << layer;
    }
  const Json config = read_json_file(folder_ / "out/config.json");
  const Json scheme = {{"num_bits", 8},        {"type", "float"},  {"symmetric", true},  {"group_size", nullptr},
                       {"strategy", "tensor"}, {"dynamic", false}, {"actorder", nullptr}};
  EXPECT_EQ(config["quantization_config"]["kv_cache_scheme"], scheme);
}
INSTANTIATE_TEST_SUITE_P(Models, CacheScalesOf, testing::Values("llama", "llama-tied-bias", "qwen3"));

TEST_F(CacheScales, AreTheOnlyDifference) {
  open("llama");
  run("with");
  request_.fp8_cache = false;
  request_.calibration = {};
  run("without");
  const auto with = tensors("with"), without = tensors("without");
  EXPECT_EQ(with.size(), without.size() + 4);
  for (const auto& [name, tensor] : without) {
    const auto same = with.find(name);
    ASSERT_NE(same, with.end()) << name;
    EXPECT_TRUE(std::ranges::equal(tensor.view.bytes, same->second.view.bytes)) << name;
  }
  EXPECT_TRUE(read_json_file(folder_ / "without/config.json")["quantization_config"]["kv_cache_scheme"].is_null());
}

// Also where no linear of a block is quantized, so that nothing else looks at its tokens.
TEST_F(CacheScales, ComeOfEveryLayerAndOutliveAStop) {
  open("llama");
  request_.skip = {"model\\.layers", "lm_head"};
  request_.embedding = parse_table("8");
  set_thread_count(1);
  run("one");
  EXPECT_TRUE(tensors("one").contains("model.layers.1.self_attn.v_scale"));
  set_thread_count(3);
  StopAtSecond stop;
  EXPECT_EQ(error_kind([&] { run("resumed", "hf", {}, stop); }), ErrorKind::kInterrupted);
  run("resumed", "hf", {.resume = true});
  set_thread_count(0);
  EXPECT_EQ(bytes("resumed"), bytes("one"));
}

TEST_F(CacheScales, AreStoredAsTheModel) {
  open("llama");
  request_.dtype = DType::kBF16;
  request_.scale_dtype = DType::kF32;
  run("out");
  EXPECT_EQ(tensors("out").at("model.layers.0.self_attn.k_scale").view.dtype, DType::kBF16);
}

TEST_F(CacheScales, ConvertLeavesThemOut) {
  open("llama");
  run("out");
  const auto written = Source::open(folder_ / "out");
  const QuantizePlan plan = make_convert_plan(*written, {}, find_exporter("hf"));
  EXPECT_THAT(plan.warnings, Contains(HasSubstr("kv_cache_scheme is left out")));
  run_plan(*written, plan, parse_formats("hf"), folder_ / "again");
  EXPECT_EQ(tensors("again").size(), tensors("out").size() - 4);
  EXPECT_TRUE(read_json_file(folder_ / "again/config.json")["quantization_config"]["kv_cache_scheme"].is_null());
}

TEST_F(CacheScales, AreRefusedWhereTheyHaveNoPlace) {
  open("llama");
  for (const char* format : {"gguf", "gptq", "fake", "hf,fake"})
    EXPECT_THAT(error_text([&] { run("no", format); }),
                testing::AllOf(HasSubstr("--kv-cache-scheme"), HasSubstr("--format hf")))
        << format;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "no"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "no.partial"));
  request_.stats = "imatrix.gguf";
  request_.calibration = {};
  EXPECT_THAT(error_text([&] { run("no"); }), HasSubstr("keys and values"));
  EXPECT_THAT(error_text([&] {
                apply_recipe({{"kv-cache-scheme", "int4"}}, request_);
              }),
              testing::AllOf(HasSubstr("'int4'"), HasSubstr("none, fp8")));
}

}  // namespace
}  // namespace nibble
