#include "pipeline/quantize_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/test_errors.h"
#include "pipeline/presets.h"
#include "pipeline/recipe.h"
#include "pipeline/torchchat.h"

namespace nibble {
namespace {

using testing::HasSubstr;

TEST(Rule, SplitsAtTheLastColon) {
  const Rule rule = parse_rule("(?:model|x):y.*:bits=8,group=64,asym,algo=search");
  EXPECT_EQ(rule.pattern, "(?:model|x):y.*");
  EXPECT_EQ(rule.change.bits, 8);
  EXPECT_EQ(rule.change.group, 64u);
  EXPECT_EQ(rule.change.symmetric, false);
  EXPECT_EQ(rule.algorithm, "search");
  EXPECT_EQ(parse_rule("a:group=-1").change.group, QuantSpec::kWholeRow);
  EXPECT_EQ(parse_rule("a:grid=nf4").change.grid, Grid::kNF4);
}

TEST(Rule, RefusesWhatItDoesNotKnow) {
  for (const char* text : {"", "x", "x:", ":bits=4", "x:bits", "x:bits=9", "x:bits=0", "x:bits=4x", "x:group=-2",
                           "x:bit=4", "x:sym=1", "x:algo=", "x:bits=4,"})
    EXPECT_EQ(error_kind([&] { parse_rule(text); }), ErrorKind::kUsage) << text;
}

TEST(Table, BitsGroupAndKeep) {
  EXPECT_TRUE(parse_table("keep").keep);
  const TableChoice plain = parse_table("8"), grouped = parse_table("4:32"), row = parse_table("4:0");
  EXPECT_FALSE(plain.keep);
  EXPECT_EQ(plain.bits, 8);
  EXPECT_FALSE(plain.group);
  EXPECT_EQ(grouped.group, 32u);
  EXPECT_EQ(row.group, QuantSpec::kWholeRow);
  for (const char* text : {"", "9", "x", "4:", "4:x", ":32", "4:32:1"})
    EXPECT_EQ(error_kind([&] { parse_table(text); }), ErrorKind::kUsage) << text;
}

TEST(Setting, AlgorithmOptionNumber) {
  QuantizeRequest request;
  parse_setting("rtn.clip=0.9", request);
  parse_setting("rtn.other=2", request);
  EXPECT_DOUBLE_EQ(request.settings["rtn"]["clip"], 0.9);
  EXPECT_DOUBLE_EQ(request.settings["rtn"]["other"], 2);
  for (const char* text : {"", "rtn", "rtn.clip", "rtn.clip=", "clip=1", ".clip=1", "rtn.=1", "rtn.clip=x"})
    EXPECT_EQ(error_kind([&] { parse_setting(text, request); }), ErrorKind::kUsage) << text;
}

TEST(Presets, IgnoreCaseAndUnderscores) {
  EXPECT_EQ(find_preset("w4a16").name, "W4A16");
  EXPECT_EQ(find_preset("W4A16_ASYM").name, "W4A16-asym");
  EXPECT_EQ(find_preset("INT4_asym-g32").spec.group, 32u);
  EXPECT_EQ(find_preset("8DA4W").name, "a8w4dq");
  EXPECT_EQ(find_preset("w4a8").name, "a8w4dq");
}

TEST(Presets, SayWhatTheContractSays) {
  const Preset w3 = find_preset("W3A16"), nf4 = find_preset("nf4"), fp8 = find_preset("FP8"),
               w8a8 = find_preset("W8A8"), a6 = find_preset("a6w4dq");
  EXPECT_EQ(describe(w3.spec), "int3 asym g64");
  EXPECT_EQ(nf4.spec.grid, Grid::kNF4);
  EXPECT_EQ(nf4.spec.group, 64u);
  EXPECT_EQ(fp8.spec.grid, Grid::kFP8);
  EXPECT_EQ(fp8.activations.grid, Grid::kFP8);
  EXPECT_EQ(w8a8.spec.group, QuantSpec::kWholeRow);
  EXPECT_TRUE(w8a8.activations.symmetric);
  EXPECT_EQ(a6.activations.bits, 6);
  EXPECT_FALSE(a6.activations.symmetric);
  EXPECT_TRUE(a6.spec.symmetric);
  EXPECT_EQ(a6.spec.group, 32u);
  for (const std::string& name : preset_names()) EXPECT_NO_THROW(find_preset(name).spec.validate()) << name;
}

TEST(Presets, NamesAreForgiving) {
  EXPECT_EQ(find_preset("w8a8_static").activations.mode, ActivationSpec::Mode::kStatic);
  EXPECT_THAT(error_text([] { find_preset("W5"); }), HasSubstr("W4A16-asym"));
}

QuantizeRequest torchchat(std::string_view text) {
  QuantizeRequest request;
  apply_torchchat(text, request);
  return request;
}

TEST(Torchchat, EveryDictionary) {
  const QuantizeRequest int4 = torchchat(
      "{'linear:int4': {'groupsize': 256}, 'precision': {'dtype': 'bf16'}, 'embedding': {'bitwidth': 4, 'groupsize': "
      "32}}");
  EXPECT_EQ(int4.change.bits, 4);
  EXPECT_EQ(int4.change.group, 256u);
  EXPECT_EQ(int4.change.symmetric, false);
  EXPECT_EQ(int4.dtype, DType::kBF16);
  EXPECT_EQ(int4.embedding, (TableChoice{false, 4, 32}));
  EXPECT_FALSE(int4.activations);
  const QuantizeRequest int8 = torchchat(R"({"linear:int8": {"bitwidth": 8, "groupsize": 0}})");
  EXPECT_EQ(int8.change.bits, 8);
  EXPECT_EQ(int8.change.group, QuantSpec::kWholeRow);
  EXPECT_EQ(int8.change.symmetric, true);
  EXPECT_FALSE(int8.embedding);
  for (const char* text : {R"({"linear:8da4w": {"groupsize": 64}})", R"({"linear:a8w4dq": {"groupsize": 64}})"}) {
    const QuantizeRequest request = torchchat(text);
    EXPECT_EQ(request.change.group, 64u);
    EXPECT_EQ(request.change.symmetric, true);
    ASSERT_TRUE(request.activations);
    EXPECT_EQ(request.activations->bits, 8);
    EXPECT_FALSE(request.activations->symmetric);
  }
  EXPECT_EQ(torchchat(R"({"linear:a6w4dq": {"groupsize": 32}})").activations->bits, 6);
  EXPECT_EQ(torchchat(R"({"linear:gptq": {"groupsize": 32}})").algorithm, "gptq");
  EXPECT_EQ(torchchat(R"({"linear:hqq": {"groupsize": 32}})").algorithm, "hqq");
}

TEST(Torchchat, ALinearEntryReplacesAScheme) {
  QuantizeRequest request;
  request.scheme = "W8A8";
  apply_torchchat("{'embedding': {'bitwidth': 8}}", request);
  EXPECT_EQ(request.scheme, "W8A8");
  apply_torchchat("{'linear:int4': {'groupsize': 32}}", request);
  EXPECT_FALSE(request.scheme);
}

TEST(Torchchat, RefusesByName) {
  EXPECT_THAT(error_text([] { torchchat(R"({"linear:int5": {}})"); }), HasSubstr("linear:int5"));
  EXPECT_THAT(error_text([] { torchchat(R"({"linear:int4": {"group": 3}})"); }), HasSubstr("'group'"));
  EXPECT_THAT(error_text([] { torchchat(R"({"linear:int4": {"bitwidth": 3}})"); }), HasSubstr("expected 4"));
  EXPECT_THAT(error_text([] { torchchat(R"({"embedding": {"bitwidth": 5}})"); }), HasSubstr("4 or 8"));
  EXPECT_THAT(error_text([] { torchchat(R"({"linear:int4": {}, "linear:int8": {}})"); }), HasSubstr("keep one"));
  for (const char* text : {"", "{", "[]", "3", "{'linear:int4': 3}", "{'linear:int4': {'groupsize': 'x'}}",
                           "{'linear:int4': {'groupsize': 1.5}}", "{'embedding': []}",
                           "{'precision': {'dtype': 'int3'}}", "'", "{'a", "{\"a\\"})
    EXPECT_NE(error_text([&] { torchchat(text); }), "") << text;
}

QuantizeRequest recipe(const char* text) {
  QuantizeRequest request;
  apply_recipe(Json::parse(text), request);
  return request;
}

TEST(Recipe, EveryKey) {
  const QuantizeRequest request = recipe(R"({
    "scheme": "W4A16", "bits": 3, "group_size": 64, "asym": true, "full-range": false, "grid": "int", "lm-head": 8, "embedding": "4:32",
    "skip": "a", "rule": ["b:bits=8", "c:sym"], "algorithm": "search", "set": {"search.grid": 40}, "dtype": "fp16", "no_fallback": true,
    "calib": "a.txt", "samples": 32, "seqlen": 64, "seed": 7, "calib-bos": "auto", "dynamic-ranges": "tensor", "accuracy_level": 4, "ort": "lib",
    "quantize": {"linear:int8": {"groupsize": 0}}})");
  EXPECT_EQ(request.scheme, "W4A16");
  EXPECT_EQ(request.change.bits, 3);  // beside a dictionary, single keys win
  EXPECT_EQ(request.change.group, 64u);
  EXPECT_EQ(request.change.symmetric, false);
  EXPECT_EQ(request.change.full_range, false);
  EXPECT_EQ(request.lm_head, (TableChoice{false, 8, std::nullopt}));
  EXPECT_EQ(request.embedding, (TableChoice{false, 4, 32}));
  EXPECT_EQ(request.skip, std::vector<std::string>{"a"});
  ASSERT_EQ(request.rules.size(), 2u);
  EXPECT_EQ(request.rules[1].pattern, "c");
  EXPECT_EQ(request.algorithm, "search");
  EXPECT_DOUBLE_EQ(request.settings.at("search").at("grid"), 40);
  EXPECT_EQ(request.dtype, DType::kF16);
  EXPECT_FALSE(request.allow_fallback);
  EXPECT_EQ(request.calibration, (CalibrationChange{"a.txt", 32, 64, 7, BosChoice::kAuto}));
  EXPECT_TRUE(request.tensor_ranges);
  EXPECT_EQ(request.accuracy_level, 4);
  EXPECT_EQ(request.ort, "lib");
  EXPECT_FALSE(recipe(R"({"dynamic-ranges": "token"})").tensor_ranges);
  EXPECT_EQ(recipe(R"({"granularity": "tensor"})").change.per_tensor, true);
  EXPECT_EQ(recipe(R"({"granularity": "channel"})").change.group, QuantSpec::kWholeRow);
}

TEST(Recipe, RefusesUnknownKeysAndWrongTypesByName) {
  EXPECT_THAT(error_text([] { recipe(R"({"shceme": "W4A16"})"); }), HasSubstr("unknown key 'shceme'"));
  EXPECT_THAT(error_text([] { recipe(R"({"granularity": "tensor", "group-size": 32})"); }), HasSubstr("granularity"));
  for (const char* text : {"[]", "3", R"({"bits": "4"})", R"({"bits": 9})", R"({"bits": 4.5})", R"({"group-size": -2})",
                           R"({"sym": 1})", R"({"skip": [1.5]})", R"({"rule": "x"})", R"({"set": {"rtn.clip": "x"}})",
                           R"({"dtype": "q4"})", R"({"samples": -1})", R"({"calib-bos": "maybe"})",
                           R"({"dynamic-ranges": "row"})", R"({"accuracy-level": 5})", R"({"scheme": null})"})
    EXPECT_NE(error_text([&] { recipe(text); }), "") << text;
}

}  // namespace
}  // namespace nibble
