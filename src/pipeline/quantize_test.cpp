#include "pipeline/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>

#include "core/interrupt.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "core/threads.h"
#include "export/hf_folder.h"
#include "formats/torch_checkpoint.h"
#include "pipeline/on_the_fly.h"
#include "pipeline/tiny_model.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Quantize : public testing::Test {
 protected:
  void use(const TinyModel& model) {
    model.write(folder_ / "model");
    source_ = Source::open(folder_ / "model");
  }
  void SetUp() override { use(TinyModel{}); }
  ~Quantize() override { set_thread_count(0); }

  QuantizeResult run(const std::string& out, bool force = false, const std::string& format = "hf") {
    const auto formats = parse_formats(format);
    const QuantizePlan plan = make_plan(*source_, request_, formats.front());
    return run_plan(*source_, plan, formats, folder_ / out, {.force = force});
  }
  QuantizeResult convert(const Source& source, const std::string& out, const std::string& format,
                         std::optional<DType> dtype = {}) {
    const ExporterEntry& entry = find_exporter(format);
    const QuantizePlan plan = make_convert_plan(source, dtype, entry);
    return run_plan(source, plan, {&entry}, folder_ / out);
  }
  Json config(const std::string& out) { return read_json_file(folder_ / out / "config.json"); }
  // Everything in a folder, by name.
  std::map<std::string, std::string> contents(const std::string& out) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(folder_ / out))
      files[entry.path().filename().string()] = read_text_file(entry.path());
    return files;
  }
  // The same tensors with the same bytes, in whatever order.
  bool same_tensors(const std::string& a, const std::string& b) {
    const auto bytes = [&](const std::string& out) {
      std::map<std::string, std::vector<std::byte>> tensors;
      for (const SafeTensor& tensor : open_safetensors_folder(folder_ / out))
        tensors[tensor.name].assign(tensor.view.bytes.begin(), tensor.view.bytes.end());
      return tensors;
    };
    return config(a) == config(b) && bytes(a) == bytes(b);
  }
  static std::vector<float> values(const StoredTensor& tensor) {
    std::vector<float> out(element_count(tensor.shape()));
    tensor.read_rows(0, tensor.rows(), out.data());
    return out;
  }

  TestFolder folder_;
  std::unique_ptr<Source> source_;
  QuantizeRequest request_;
};

const std::string kDown = "model.layers.0.mlp.down_proj.weight";

// Codes, scales and zero points survive the trip through files, whatever the spec: what is read back is what the
// algorithm made.
struct Trip {
  const char* name;
  SpecChange change;
  const char* method;
};
class RoundTrip : public Quantize, public testing::WithParamInterface<Trip> {};

TEST_P(RoundTrip, ReadsBackWhatTheAlgorithmMade) {
  request_.change = GetParam().change;
  const QuantizeResult result = run("out");
  EXPECT_EQ(config("out")["quantization_config"]["quant_method"], GetParam().method);
  const auto back = Source::open(folder_ / "out");
  const auto algorithm = make_algorithm("rtn", {});
  for (const LayerReport& layer : result.layers) {
    const StoredTensor& original = source_->get(layer.name + ".weight");
    const StoredTensor& stored = back->get(layer.name + ".weight");
    ASSERT_TRUE(stored.spec()) << layer.name;
    const std::vector<float> weights = values(original);
    const auto [lo, hi] = std::minmax_element(weights.begin(), weights.end());
    const QuantizedMatrix want =
        algorithm->quantize({matrix(weights.data(), original.rows(), original.cols()), layer.spec, {*lo, *hi}});
    const QuantizedMatrix got = stored.read_codes(0, stored.rows());
    EXPECT_EQ(got.codes, want.codes) << layer.name;
    EXPECT_EQ(got.scales, want.scales) << layer.name;
    EXPECT_EQ(got.zeros, want.zeros) << layer.name;

    std::vector<float> restored(weights.size());
    dequantize(want, matrix(restored.data(), want.rows, want.cols));
    double signal = 0, error = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      signal += double{weights[i]} * weights[i];
      error += (double{weights[i]} - restored[i]) * (double{weights[i]} - restored[i]);
    }
    EXPECT_NEAR(layer.weight_sqnr_db, 10 * std::log10(signal / error), 1e-4) << layer.name;
    EXPECT_NEAR(layer.output_error, error / signal, 1e-5 * error / signal) << layer.name;
  }
}

SpecChange change(int bits, size_t group, bool symmetric, Grid grid = Grid::kInt, bool per_tensor = false) {
  SpecChange out;
  out.bits = bits, out.group = group, out.symmetric = symmetric, out.grid = grid;
  if (per_tensor) out.per_tensor = true;
  return out;
}

INSTANTIATE_TEST_SUITE_P(
    Specs, RoundTrip,
    testing::Values(Trip{"int4", change(4, 32, true), "compressed-tensors"},
                    Trip{"int4asym", change(4, 32, false), "compressed-tensors"},
                    Trip{"int3asym", change(3, 16, false), "compressed-tensors"},
                    Trip{"int8row", change(8, 0, true), "compressed-tensors"},
                    Trip{"int5asymrow", change(5, 0, false), "compressed-tensors"},
                    Trip{"int2tensor", change(2, 0, false, Grid::kInt, true), "compressed-tensors"},
                    Trip{"int1", change(1, 32, true), "nibble"}, Trip{"shortgroup", change(4, 40, true), "nibble"},
                    Trip{"nf4", change(4, 32, true, Grid::kNF4), "nibble"},
                    Trip{"fp4", change(4, 32, true, Grid::kFP4), "nibble"},
                    Trip{"fp4_bnb", change(4, 32, true, Grid::kFP4Bnb), "nibble"},
                    Trip{"fp8", change(8, 0, true, Grid::kFP8), "compressed-tensors"}),
    [](const auto& spec) { return std::string(spec.param.name); });

TEST_F(Quantize, KeepsWhatIsNotQuantizedBitForBit) {
  TinyModel model;
  model.dtype = DType::kBF16;
  use(model);
  request_.scheme = "W4A16";
  run("out");
  const auto back = Source::open(folder_ / "out");
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}) {
    EXPECT_EQ(back->get(name).dtype(), DType::kBF16) << name;
    EXPECT_EQ(values(back->get(name)), values(source_->get(name))) << name;
  }
  EXPECT_EQ(back->get(kDown).spec()->scale_dtype, DType::kBF16);
}

TEST_F(Quantize, ConfigAndSideFilesCome) {
  request_.scheme = "W8A8";
  request_.dtype = DType::kF16;
  run("out");
  EXPECT_EQ(read_text_file(folder_ / "out/generation_config.json"), "{\"eos_token_id\": 2}\n");
  const Json json = config("out");
  EXPECT_EQ(json["torch_dtype"], "float16");
  EXPECT_EQ(json["hidden_size"], 64);
  EXPECT_EQ(json["quantization_config"]["config_groups"]["group_0"]["targets"], Json::array({"Linear"}));
  EXPECT_EQ(json["quantization_config"]["ignore"], Json::array({"lm_head"}));
  const auto back = Source::open(folder_ / "out");
  EXPECT_EQ(back->get(kDown).activations().mode, ActivationSpec::Mode::kDynamicPerToken);
}

TEST_F(Quantize, MixedSchemesGetGroupsOfTheirOwn) {
  request_.change = change(4, 32, true);
  request_.rules = {parse_rule(".*down_proj:bits=8,asym"), parse_rule(".*layers.0.*q_proj:bits=3,group=16")};
  request_.skip = {".*layers.1.*v_proj"};
  request_.embedding = parse_table("8");
  run("out");
  const auto back = Source::open(folder_ / "out");
  EXPECT_EQ(describe(*back->get(kDown).spec()), "int8 asym g32");
  EXPECT_EQ(describe(*back->get("model.layers.0.self_attn.q_proj.weight").spec()), "int3 sym g16");
  EXPECT_EQ(describe(*back->get("model.layers.1.self_attn.q_proj.weight").spec()), "int4 sym g32");
  EXPECT_EQ(describe(*back->get("model.embed_tokens.weight").spec()), "int8 sym per channel");
  EXPECT_FALSE(back->get("model.layers.1.self_attn.v_proj.weight").spec());
  EXPECT_FALSE(back->get("lm_head.weight").spec());
}

TEST_F(Quantize, SameBytesForAnyThreadCount) {
  TinyModel model;
  model.hidden = 512, model.intermediate = 704, model.layers = 1;  // several slices for each matrix
  use(model);
  request_.change = change(3, 64, false);
  request_.algorithm = "search";
  set_thread_count(1);
  const QuantizeResult one = run("one");
  set_thread_count(3);
  const QuantizeResult three = run("three");
  EXPECT_TRUE(contents("one") == contents("three"));  // not EXPECT_EQ: nobody reads a dump of the bytes
  ASSERT_EQ(one.layers.size(), three.layers.size());
  for (size_t i = 0; i < one.layers.size(); ++i)
    EXPECT_EQ(one.layers[i].weight_sqnr_db, three.layers[i].weight_sqnr_db);
}

TEST_F(Quantize, TiedModelsStoreOneTensorAndUntieOnRequest) {
  TinyModel model;
  model.tied = true;
  use(model);
  request_.scheme = "W4A16";
  request_.embedding = parse_table("8");
  run("tied");
  EXPECT_EQ(config("tied")["tie_word_embeddings"], true);
  EXPECT_EQ(Source::open(folder_ / "tied")->find("lm_head.weight"), nullptr);
  request_.lm_head = parse_table("4:32");
  run("untied");
  EXPECT_EQ(config("untied")["tie_word_embeddings"], false);
  const auto back = Source::open(folder_ / "untied");
  EXPECT_EQ(back->get("lm_head.weight").spec()->bits, 4);
  EXPECT_EQ(back->get("model.embed_tokens.weight").spec()->bits, 8);
}

TEST_F(Quantize, FakeHoldsTheDequantizedValues) {
  request_.change = change(4, 32, false);
  run("both", false, "hf,fake");
  const auto hf = Source::open(folder_ / "both/hf"), fake = Source::open(folder_ / "both/fake");
  ASSERT_EQ(hf->tensors().size(), fake->tensors().size());
  for (const auto& tensor : hf->tensors()) {
    EXPECT_FALSE(fake->get(tensor->name()).spec());
    EXPECT_EQ(values(*tensor), values(fake->get(tensor->name()))) << tensor->name();
  }
  EXPECT_FALSE(config("both/fake").contains("quantization_config"));
}

TEST_F(Quantize, ConvertMovesCodesExactlyAndDequantizesForFake) {
  request_.change = change(3, 40, true);
  request_.lm_head = parse_table("8");
  run("out");
  const auto quantized = Source::open(folder_ / "out");
  convert(*quantized, "again", "hf");
  EXPECT_TRUE(same_tensors("out", "again"));
  convert(*quantized, "floats", "fake", DType::kBF16);
  const auto floats = Source::open(folder_ / "floats");
  const StoredTensor& down = floats->get(kDown);
  EXPECT_EQ(down.dtype(), DType::kBF16);
  std::vector<float> want = values(quantized->get(kDown));
  for (float& value : want) value = bf16_to_f32(f32_to_bf16(value));
  EXPECT_EQ(values(down), want);
  EXPECT_EQ(config("floats")["torch_dtype"], "bfloat16");
}

TEST_F(Quantize, AQuantizedSourceIsRequantizedOnlyWithAWarningAndKeptExactlyWhereSkipped) {
  request_.change = change(4, 32, true);
  run("out");
  source_ = Source::open(folder_ / "out");
  request_.change = change(3, 32, true);
  request_.skip = {".*down_proj"};
  const auto& hf = find_exporter("hf");
  EXPECT_THAT(make_plan(*source_, request_, &hf).warnings, testing::Contains(HasSubstr("quantized again")));
  run("again");
  const auto again = Source::open(folder_ / "again");
  EXPECT_EQ(again->get(kDown).read_codes(0, 64).codes, source_->get(kDown).read_codes(0, 64).codes);
  EXPECT_EQ(again->get("model.layers.0.mlp.up_proj.weight").spec()->bits, 3);
}

TEST_F(Quantize, OnTheFlyIsTheSameQuantization) {
  request_.change = change(4, 32, false);
  run("out");
  const auto stored = Source::open(folder_ / "out");
  const LoadOptions options = quantize_on_load(*source_, request_);
  EXPECT_FALSE(options.replace(source_->get("lm_head.weight")));
  const auto weight = options.replace(source_->get(kDown));
  ASSERT_TRUE(weight && weight->packed());
  const QuantizedMatrix got = unpack_rows(*weight->packed(), 0, weight->rows()),
                        want = stored->get(kDown).read_codes(0, weight->rows());
  EXPECT_EQ(got.codes, want.codes);
  EXPECT_EQ(got.scales, want.scales);
  EXPECT_EQ(got.zeros, want.zeros);
}

// It knows what the norms say too.
TEST_F(Quantize, OnTheFlyHqqIsTheSameQuantization) {
  request_.change = change(4, 32, false);
  request_.algorithm = "hqq";
  run("out");
  const auto stored = Source::open(folder_ / "out");
  const LoadOptions options = quantize_on_load(*source_, request_);
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const auto weight = options.replace(source_->get(name));
  ASSERT_TRUE(weight && weight->packed());
  const QuantizedMatrix got = unpack_rows(*weight->packed(), 0, weight->rows()),
                        want = stored->get(name).read_codes(0, weight->rows());
  EXPECT_EQ(got.codes, want.codes);
  EXPECT_EQ(got.scales, want.scales);
  EXPECT_EQ(got.mins, want.mins);
}

TEST_F(Quantize, NotANumberIsNamed) {
  for (const float bad : {std::nanf(""), -INFINITY}) {
    TinyModel model;
    model.edit = [&](const std::string& name, std::vector<float>& v) {
      if (name == kDown) v[5 * 96 + 7] = bad;
    };
    use(model);
    request_.scheme = "W4A16";
    const std::string text = error_text([&] { run("out"); });
    EXPECT_THAT(text, HasSubstr(kDown));
    EXPECT_THAT(text, HasSubstr("row 5, column 7"));
    EXPECT_FALSE(fs::exists(folder_ / "out"));
    EXPECT_FALSE(fs::exists(folder_ / "out.partial"));
  }
}

TEST_F(Quantize, ValuesThatTheStoredTypeCannotHoldAreRefused) {
  TinyModel model;
  model.edit = [&](const std::string& name, std::vector<float>& v) {
    if (name == kDown) v[3] = 1e30f;
  };
  use(model);
  request_.scheme = "W4A16";
  request_.dtype = DType::kF16;
  EXPECT_THAT(error_text([&] { run("out"); }), HasSubstr("F16"));
  request_.skip = {".*down_proj"};
  EXPECT_THAT(error_text([&] { run("out"); }), HasSubstr("does not fit F16"));
}

TEST_F(Quantize, ExistingOutputIsOnlyReplacedWithForceAndOnlyAtTheEnd) {
  request_.scheme = "W4A16";
  fs::create_directory(folder_ / "out");
  write_text_file(folder_ / "out/mine", "x");
  EXPECT_THAT(error_text([&] { run("out"); }), HasSubstr("--force"));
  TinyModel broken;
  broken.edit = [](const std::string& name, std::vector<float>& v) {
    if (name == "model.norm.weight") v[0] = std::nanf("");
  };
  broken.write(folder_ / "broken");
  auto good = std::move(source_);
  source_ = Source::open(folder_ / "broken");
  EXPECT_NE(error_text([&] { run("out", true); }), "");
  EXPECT_EQ(read_text_file(folder_ / "out/mine"), "x");
  source_ = std::move(good);
  run("out", true);
  EXPECT_FALSE(fs::exists(folder_ / "out/mine"));
  EXPECT_TRUE(fs::exists(folder_ / "out/model.safetensors"));
}

TEST_F(Quantize, AFullDiskLeavesNothingBehind) {
  request_.scheme = "W4A16";
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 20000;
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string text = error_text([&] { run("out"); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(text, HasSubstr("model.safetensors"));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  EXPECT_FALSE(fs::exists(folder_ / "out.partial"));
}

TEST_F(Quantize, AMissingParentFolderIsFoundBeforeTheWork) {
  request_.scheme = "W4A16";
  EXPECT_EQ(error_kind([&] { run("no/such/out"); }), ErrorKind::kIo);
}

TEST_F(Quantize, ReportsAsTheContractSays) {
  request_.scheme = "W4A16";
  const QuantizePlan plan = make_plan(*source_, request_, &find_exporter("hf"));
  const QuantizeResult result = run_plan(*source_, plan, parse_formats("hf"), folder_ / "out");
  const OrderedJson json = to_json(result, plan);
  for (const char* key : {"seconds", "cpu_seconds", "peak_rss_bytes", "bpw", "bytes", "layers", "plan"})
    EXPECT_TRUE(json.contains(key)) << key;
  for (const char* key :
       {"name", "bits", "group_size", "symmetric", "algorithm", "weight_sqnr_db", "output_error", "fallback"})
    EXPECT_TRUE(json["layers"][0].contains(key) && !json["layers"][0][key].is_null()) << key;
  EXPECT_EQ(json["layers"][0]["name"], "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(result.bytes, plan.bytes_after);
  size_t stored = 0;
  for (const SafeTensor& tensor : open_safetensors_folder(folder_ / "out")) stored += tensor.view.bytes.size();
  EXPECT_EQ(result.bytes, stored);
  EXPECT_DOUBLE_EQ(result.bits_per_weight, 8.0 * static_cast<double>(stored) / static_cast<double>(plan.parameters));
  EXPECT_THAT(summary(result, plan), HasSubstr("group 128 does not divide 96 columns"));
}

// The state dict holds what `fake` writes, the tied matrix under both of its names, and the folder is a model.
TEST_F(Quantize, ATorchStateDictHoldsWhatFakeWrites) {
  for (const bool tied : {false, true}) {
    TinyModel model;
    model.tied = tied;
    use(model);
    request_ = {};
    request_.change.bits = 3;
    request_.change.group = 32;
    request_.change.symmetric = false;
    request_.algorithm = "search";
    const std::string out = tied ? "tied" : "untied";
    run(out, false, "pt,fake");
    std::map<std::string, std::vector<std::byte>> want, got;
    for (const SafeTensor& tensor : open_safetensors_folder(folder_ / out / "fake"))
      want[tensor.name].assign(tensor.view.bytes.begin(), tensor.view.bytes.end());
    for (const NamedTensor& tensor : open_torch_file(folder_ / out / "pt/saved_results/best_model.pt"))
      got[tensor.name].assign(tensor.view.bytes.begin(), tensor.view.bytes.end());
    if (tied) want["lm_head.weight"] = want.at("model.embed_tokens.weight");
    EXPECT_EQ(got, want);
    const Json weights = read_json_file(folder_ / out / "pt/saved_results/weight_config.json");
    EXPECT_EQ(weights.size(), 14u);
    EXPECT_EQ(weights["model.layers.0.mlp.down_proj"],
              (Json{{"bits", 3}, {"group_size", 32}, {"scheme", "asym"}, {"dtype", "int"}, {"algorithm", "search"}}));

    const auto back = Source::open(folder_ / out / "pt");
    EXPECT_EQ(back->kind(), "torch");
    EXPECT_THAT(back->side_files(), testing::Contains("generation_config.json"));
    convert(*back, out + "-again", "fake");
    fs::rename(folder_ / out / "fake", folder_ / (out + "-fake"));
    EXPECT_TRUE(same_tensors(out + "-again", out + "-fake"));
  }
}

TEST_F(Quantize, FormatsAreParsedBeforeWork) {
  EXPECT_EQ(parse_formats("fake,hf").size(), 2u);
  EXPECT_THAT(error_text([] { parse_formats("hf,x"); }), HasSubstr("known are hf, gptq"));
  EXPECT_THAT(error_text([] { parse_formats("hf,hf"); }), HasSubstr("twice"));
}

TEST_F(Quantize, LargeModelsAreSharded) {
  const std::vector<SafeTensorSlot> slots = {
      {"a", DType::kF32, {10}}, {"b", DType::kF16, {10}}, {"c", DType::kI64, {3}}, {"d", DType::kF32, {100}}};
  HfFolder folder(folder_ / "out", false, slots, /*shard_bytes=*/64);
  EXPECT_EQ(folder.data_bytes(), 40u + 20 + 24 + 400);
  const std::vector<std::byte> bytes(400, std::byte{1});
  for (size_t i = 0; i < slots.size(); ++i)
    folder.write(i, 0, std::span(bytes).first(byte_size(slots[i].dtype, element_count(slots[i].shape))));
  folder.finish({{"x", 1}}, *source_);
  EXPECT_TRUE(fs::exists(folder_ / "out/model-00003-of-00003.safetensors"));
  EXPECT_EQ(read_json_file(folder_ / "out/model.safetensors.index.json")["weight_map"]["d"],
            "model-00003-of-00003.safetensors");
  EXPECT_EQ(open_safetensors_folder(folder_ / "out").size(), 4u);
}

}  // namespace
}  // namespace nibble
