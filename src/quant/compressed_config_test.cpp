#include "quant/compressed_config.h"

#include <gmock/gmock.h>

#include "quant/compressed_tensors.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using testing::HasSubstr;
using namespace testing_support;

// As llm-compressor writes it.
constexpr std::string_view kForeign = R"({
  "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
  "config_groups": {"group_0": {"targets": ["Linear"],
    "weights": {"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 64, "dynamic": false,
                "actorder": "static", "observer": "memoryless_minmax", "block_structure": null},
    "input_activations": null, "output_activations": null, "format": "pack-quantized"}},
  "ignore": ["lm_head"], "kv_cache_scheme": null, "sparsity_config": {}, "transform_config": {},
  "global_compression_ratio": null, "version": "0.19.0"})";

Json foreign() { return parse_json(kForeign, "test"); }

TEST(CompressedConfig, ReadsWhatLlmCompressorWrites) {
  const CompressedConfig config = parse_compressed_config(foreign());
  EXPECT_FALSE(config.nibble_method);
  ASSERT_EQ(config.groups.size(), 1u);
  EXPECT_EQ(config.groups[0].weights, (QuantSpec{.bits = 4, .group = 64}));
  EXPECT_EQ(config.groups[0].activations, ActivationSpec{});
  EXPECT_EQ(config.groups[0].format, "pack-quantized");
  EXPECT_EQ(config.find("model.layers.0.mlp.up_proj", "Linear"), &config.groups[0]);
  EXPECT_EQ(config.find("lm_head", "Linear"), nullptr);
  EXPECT_EQ(config.find("model.embed_tokens", "Embedding"), nullptr);
}

TEST(CompressedConfig, EverySpecRoundTrips) {
  for (QuantSpec spec : every_spec()) {
    spec.full_range = false;  // not stored
    spec.scale_dtype = DType::kF32;
    for (const ActivationSpec& activations :
         {ActivationSpec{},
          ActivationSpec{.mode = ActivationSpec::Mode::kDynamicPerToken, .bits = 6, .symmetric = false},
          ActivationSpec{.mode = ActivationSpec::Mode::kDynamicPerToken, .grid = Grid::kFP8},
          ActivationSpec{.mode = ActivationSpec::Mode::kStatic, .symmetric = false},
          ActivationSpec{.mode = ActivationSpec::Mode::kStatic, .grid = Grid::kFP8}}) {
      CompressedConfig config{
          .nibble_method = true, .groups = {{{"Linear", "re:.*x"}, spec, activations, ""}}, .ignore = {"a"}};
      config.groups[0].format = compressed_format(spec, activations);
      const CompressedConfig back = parse_compressed_config(parse_json(to_json(config).dump(), "test"));
      EXPECT_TRUE(back.nibble_method);
      EXPECT_EQ(back.groups.at(0).weights, spec) << describe(spec);
      EXPECT_EQ(back.groups.at(0).activations, activations) << describe(spec);
      EXPECT_EQ(back.groups.at(0).format, config.groups[0].format);
      EXPECT_EQ(back.groups.at(0).targets, config.groups[0].targets);
      EXPECT_EQ(back.ignore, config.ignore);
    }
  }
}

TEST(CompressedConfig, WritesTheSchemasOwnWords) {
  CompressedConfig config{
      .groups = {
          {{"Linear"}, {.bits = 8, .group = 0}, {.mode = ActivationSpec::Mode::kDynamicPerToken}, "int-quantized"},
          {{"lm_head"}, {.bits = 4, .group = 32}, {}, "pack-quantized"}}};
  const OrderedJson json = to_json(config);
  EXPECT_EQ(json["quant_method"], "compressed-tensors");
  EXPECT_EQ(json["format"], "mixed-precision");
  EXPECT_EQ(
      json["config_groups"]["group_0"]["weights"],
      OrderedJson::parse(
          R"({"num_bits":8,"type":"int","symmetric":true,"group_size":null,"strategy":"channel","dynamic":false,"actorder":null})"));
  EXPECT_EQ(
      json["config_groups"]["group_0"]["input_activations"],
      OrderedJson::parse(
          R"({"num_bits":8,"type":"int","symmetric":true,"group_size":null,"strategy":"token","dynamic":true,"actorder":null})"));
  EXPECT_TRUE(json["config_groups"]["group_1"]["input_activations"].is_null());
  EXPECT_EQ(json["config_groups"]["group_1"]["weights"]["group_size"], 32);
}

TEST(CompressedConfig, NamesBeatPatternsBeatClasses) {
  CompressedConfig config;
  for (std::string_view target : {"Linear", "re:.*down_proj", "re:.*3.*", "model.layers.3.mlp.down_proj"})
    config.groups.push_back({{std::string(target)}, {}, {}, "pack-quantized"});
  config.ignore = {"re:.*gate", "model.layers.9.x"};
  const auto index = [&](std::string_view module) { return config.find(module, "Linear") - config.groups.data(); };
  EXPECT_EQ(index("model.layers.3.mlp.down_proj"), 3);
  EXPECT_EQ(index("model.layers.13.mlp.down_proj"), 2);  // "re:.*3.*" sorts before "re:.*down_proj"
  EXPECT_EQ(index("model.layers.4.mlp.down_proj"), 1);
  EXPECT_EQ(index("model.layers.4.mlp.up_proj"), 0);
  EXPECT_EQ(config.find("model.layers.3.gate", "Linear"), nullptr);
  EXPECT_EQ(config.find("model.layers.9.x", "Linear"), nullptr);
  EXPECT_EQ(config.find("model.norm", "Norm"), nullptr);
}

TEST(CompressedConfig, InfersAMissingStrategy) {
  const auto weights = [](std::string_view group_size) {
    Json json = foreign();
    Json& args = json["config_groups"]["group_0"]["weights"];
    args.erase("strategy");
    args["group_size"] = parse_json(group_size, "test");
    return parse_compressed_config(json).groups[0].weights;
  };
  EXPECT_EQ(weights("32").group, 32u);
  EXPECT_FALSE(weights("-1").per_tensor);
  EXPECT_EQ(weights("-1").group, QuantSpec::kWholeRow);
  EXPECT_TRUE(weights("null").per_tensor);
}

TEST(CompressedConfig, RefusesWhatItCannotRunByName) {
  const auto fault = [](std::string_view pointer, std::string_view value) {
    Json json = foreign();
    json[Json::json_pointer(std::string(pointer))] = parse_json(value, "test");
    return message_of([&] { parse_compressed_config(json); });
  };
  const std::string group = "/config_groups/group_0";
  EXPECT_THAT(fault("/quant_method", "\"gptq\""), HasSubstr("gptq"));
  EXPECT_THAT(fault("/quant_method", "7"), HasSubstr("quant_method"));
  EXPECT_THAT(fault("/quantization_status", "\"frozen\""), HasSubstr("frozen"));
  EXPECT_EQ(fault("/kv_cache_scheme", R"({"num_bits":8})"), "");  // noted, not run
  EXPECT_THAT(fault("/sparsity_config", R"({"format":"sparse-bitmask"})"), HasSubstr("sparsity_config"));
  EXPECT_EQ(fault("/sparsity_config", R"({"format":"dense"})"), "");
  EXPECT_THAT(fault("/config_groups", "[]"), HasSubstr("config_groups"));
  EXPECT_THAT(fault(group, "7"), HasSubstr("config_groups.group_0"));
  EXPECT_THAT(fault(group + "/targets", "\"Linear\""), HasSubstr("targets"));
  EXPECT_THAT(fault(group + "/targets", "[]"), HasSubstr("targets"));
  EXPECT_THAT(fault(group + "/targets", "[\"re:(\"]"), HasSubstr("re:("));
  EXPECT_THAT(fault("/ignore", "[\"re:[\"]"), HasSubstr("re:["));
  EXPECT_THAT(fault("/ignore", "[1]"), HasSubstr("ignore"));
  EXPECT_THAT(fault(group + "/format", "\"nvfp4-pack-quantized\""), HasSubstr("nvfp4"));
  EXPECT_THAT(fault(group + "/weights/num_bits", "16"), HasSubstr("num_bits"));
  EXPECT_THAT(fault(group + "/weights/num_bits", "-4"), HasSubstr("num_bits"));
  EXPECT_THAT(fault(group + "/weights/num_bits", "1"), HasSubstr("1-bit"));
  EXPECT_THAT(fault(group + "/weights/type", "\"nf4\""), HasSubstr("nf4"));
  EXPECT_THAT(fault(group + "/weights/type", "\"float\""), HasSubstr("float"));
  EXPECT_THAT(fault(group + "/weights/strategy", "\"block\""), HasSubstr("block"));
  EXPECT_THAT(fault(group + "/weights/group_size", "0"), HasSubstr("group_size"));
  EXPECT_THAT(fault(group + "/weights/group_size", "1e300"), HasSubstr("group_size"));
  EXPECT_THAT(fault(group + "/weights/group_size", "-2"), HasSubstr("group_size"));
  EXPECT_THAT(fault(group + "/weights/dynamic", "true"), HasSubstr("dynamic"));
  EXPECT_THAT(fault(group + "/weights", "null"), HasSubstr("weights"));
  EXPECT_THAT(fault(group + "/output_activations", R"({"num_bits":8})"), HasSubstr("output_activations"));
  EXPECT_THAT(fault(group + "/input_activations", R"({"num_bits":8,"strategy":"token"})"), HasSubstr("static"));
  EXPECT_THAT(fault(group + "/input_activations", R"({"num_bits":8,"strategy":"group","dynamic":true})"),
              HasSubstr("group"));
}

}  // namespace
}  // namespace nibble
