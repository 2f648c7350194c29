#include "quant/transposed_config.h"

#include <gmock/gmock.h>

#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using namespace testing_support;

TransposedConfig parse(std::string_view text) { return parse_transposed_config(OrderedJson::parse(text)); }

// As GPTQModel 7.7 writes it, shortened.
constexpr std::string_view kGptq = R"({"bits": 4, "dynamic": {
    "+:.*down_proj": {"bits": 8, "group_size": -1}, "-:.*layers\\.0.*": {}, "+:.*proj": {"group_size": 64, "sym": false}},
  "group_size": 128, "desc_act": true, "lm_head": true, "method": "gptq", "quant_method": "gptq", "format": "gptq_v2",
  "checkpoint_format": "gptq_v2", "pack_dtype": "int32", "sym": true, "meta": {"quantizer": ["gptqmodel:7.7.0"]}})";

TEST(TransposedConfig, ReadsGptqWithExceptionsInTheirOrder) {
  const TransposedConfig config = parse(kGptq);
  const auto layout = TransposedLayout::kGptqV2;
  EXPECT_EQ(config.linears, (TransposedFormat{layout, 4, 128, true}));
  EXPECT_TRUE(config.act_order);
  EXPECT_TRUE(config.lm_head);
  EXPECT_EQ(config.format_of("model.layers.1.mlp.down_proj"),
            (TransposedFormat{layout, 8, QuantSpec::kWholeRow, true}));
  EXPECT_EQ(config.format_of("model.layers.1.mlp.up_proj"), (TransposedFormat{layout, 4, 64, false}));
  EXPECT_EQ(config.format_of("lm_head"), config.linears);
}

TEST(TransposedConfig, ReadsTheOthers) {
  EXPECT_EQ(parse(R"({"bits": 3, "group_size": -1, "sym": false})").linears,
            (TransposedFormat{TransposedLayout::kGptqV1, 3, QuantSpec::kWholeRow, false}));
  const TransposedConfig awq = parse(
      R"({"quant_method": "awq", "version": "GEMM", "bits": 4, "group_size": 64, "zero_point": true,
          "modules_to_not_convert": ["lm_head"]})");
  EXPECT_EQ(awq.linears, (TransposedFormat{TransposedLayout::kAwq, 4, 64, true}));
  EXPECT_THAT(awq.kept, ElementsAre("lm_head"));
  EXPECT_EQ(parse(R"({"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "version": "gemm"})").linears.group,
            128u);
  const auto auto_round = [](std::string packing) {
    return parse(cat(R"({"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": true, "data_type": "int",
                         "extra_config": {"model.layers.0.mlp.up_proj": {"bits": 8}, ".*q_proj": {"bits": 16}},
                         "packing_format": ")",
                     packing, "\"}"));
  };
  EXPECT_EQ(auto_round("auto_round:auto_gptq").linears.layout, TransposedLayout::kGptqV1);
  EXPECT_EQ(auto_round("auto_round:gptqmodel").linears.layout, TransposedLayout::kGptqV2);
  EXPECT_EQ(auto_round("auto_round:auto_awq").linears.layout, TransposedLayout::kAwq);
  EXPECT_EQ(auto_round("auto_round").format_of("model.layers.0.mlp.up_proj").bits, 8);
  EXPECT_THAT(message_of([&] { auto_round("auto_round:llm_compressor"); }), HasSubstr("llm_compressor"));
}

TEST(TransposedConfig, WritesWhatItReads) {
  for (const std::string_view text :
       {kGptq, std::string_view(R"({"quant_method": "gptq", "bits": 2, "group_size": -1, "sym": false})"),
        std::string_view(R"({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm",
                             "modules_to_not_convert": ["a.b"]})")}) {
    const TransposedConfig config = parse(text), back = parse(to_json(config).dump());
    EXPECT_EQ(back.linears, config.linears);
    EXPECT_EQ(back.act_order, config.act_order);
    EXPECT_EQ(back.lm_head, config.lm_head);
    EXPECT_EQ(back.kept, config.kept);
    ASSERT_EQ(back.exceptions.size(), config.exceptions.size());
    for (size_t i = 0; i < back.exceptions.size(); ++i) {
      EXPECT_EQ(back.exceptions[i].pattern, config.exceptions[i].pattern);
      EXPECT_EQ(back.exceptions[i].quantized, config.exceptions[i].quantized);
      EXPECT_EQ(back.exceptions[i].bits, config.exceptions[i].bits);
      EXPECT_EQ(back.exceptions[i].group, config.exceptions[i].group);
    }
  }
}

TEST(TransposedConfig, RefusesWhatItCannotRunByName) {
  const auto fault = [](std::string_view pointer, std::string_view value, std::string_view text = kGptq) {
    OrderedJson json = OrderedJson::parse(text);
    json[OrderedJson::json_pointer(std::string(pointer))] = OrderedJson::parse(value);
    return message_of([&] { parse_transposed_config(json); });
  };
  EXPECT_EQ(fault("/bits", "4"), "");
  EXPECT_THAT(fault("/bits", "1"), HasSubstr("'bits' is 1"));
  EXPECT_THAT(fault("/bits", "\"4\""), HasSubstr("bits"));
  EXPECT_THAT(fault("/bits", "null"), HasSubstr("bits"));
  EXPECT_THAT(fault("/group_size", "-2"), HasSubstr("group_size"));
  EXPECT_THAT(fault("/group_size", "1.5"), HasSubstr("group_size"));
  EXPECT_THAT(fault("/group_size", "1e300"), HasSubstr("group_size"));
  EXPECT_THAT(fault("/checkpoint_format", "\"marlin\""), HasSubstr("marlin"));
  EXPECT_THAT(fault("/pack_dtype", "\"int16\""), HasSubstr("int16"));
  EXPECT_THAT(fault("/quant_method", "\"hqq\""), HasSubstr("hqq"));
  EXPECT_THAT(fault("/sym", "1"), HasSubstr("sym"));
  EXPECT_THAT(fault("/dynamic", "[]"), HasSubstr("dynamic"));
  EXPECT_THAT(fault("/dynamic", R"({"+:(": {}})"), HasSubstr("+:("));
  EXPECT_THAT(fault("/dynamic", R"({"+:a": 1})"), HasSubstr("+:a"));
  EXPECT_THAT(fault("/dynamic", R"({"+:a": {"bits": 9}})"), HasSubstr("bits"));
  constexpr std::string_view kAwq = R"({"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 64})";
  EXPECT_THAT(fault("/version", "\"gemv\"", kAwq), HasSubstr("gemv"));
  EXPECT_THAT(fault("/modules_to_not_convert", "\"lm_head\"", kAwq), HasSubstr("modules_to_not_convert"));
  EXPECT_THAT(message_of([] { parse("[]"); }), HasSubstr("object"));
}

}  // namespace
}  // namespace nibble
