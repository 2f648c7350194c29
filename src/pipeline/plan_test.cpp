#include "pipeline/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/test_errors.h"
#include "core/test_folder.h"
#include "pipeline/tiny_model.h"

namespace nibble {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

class Plan : public testing::Test {
 protected:
  void use(const TinyModel& model) {
    model.write(folder_ / "model");
    source_ = Source::open(folder_ / "model");
  }
  void SetUp() override {
    use(TinyModel{});
    request_.scheme = "W4A16";
  }
  const QuantizePlan& make() {
    plan_ = make_plan(*source_, request_, &find_exporter("hf"));
    return plan_;
  }
  const PlannedTensor& tensor(const std::string& module) {
    for (const PlannedTensor& planned : plan_.tensors)
      if (planned.module() == module) return planned;
    throw Error(ErrorKind::kUsage, module);
  }
  std::string scheme(const std::string& module) {
    const PlannedTensor& planned = tensor(module);
    return planned.spec ? describe(*planned.spec) : "keep";
  }

  TestFolder folder_;
  std::unique_ptr<Source> source_;
  QuantizeRequest request_;
  QuantizePlan plan_;
};

const std::string kDown = "model.layers.0.mlp.down_proj", kQuery = "model.layers.1.self_attn.q_proj";

TEST_F(Plan, QuantizesTheLinearsOfBlocksAndNothingElse) {
  make();
  size_t quantized = 0;
  for (const PlannedTensor& planned : plan_.tensors) quantized += planned.spec.has_value();
  EXPECT_EQ(quantized, 14u);
  EXPECT_EQ(scheme("lm_head"), "keep");
  EXPECT_EQ(scheme("model.embed_tokens"), "keep");
  EXPECT_EQ(scheme("model.norm"), "keep");
  EXPECT_EQ(plan_.parameters, 2u * 128 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64) + 64);
}

TEST_F(Plan, APresetsGroupFallsBackAndSaysSo) {
  make();
  EXPECT_EQ(tensor(kQuery).spec->group, 64u);
  EXPECT_EQ(tensor(kDown).spec->group, 32u);
  EXPECT_EQ(tensor(kDown).fallback, "group 128 does not divide 96 columns: 32");
  EXPECT_THAT(plan_.warnings, Contains("group 128 does not divide 96 columns: 32 (2 tensors)"));
  EXPECT_THAT(plan_table(plan_), HasSubstr("group 128 does not divide 96 columns: 32"));
}

TEST_F(Plan, WithoutFallbackItIsAnErrorThatNamesAGroup) {
  request_.allow_fallback = false;
  EXPECT_THAT(error_text([&] { make(); }), HasSubstr("--group-size 64"));
  EXPECT_EQ(error_kind([&] { make(); }), ErrorKind::kUsage);
}

TEST_F(Plan, HqqKnowsColumnsByTheNormBeforeThem) {
  request_.scheme.reset();
  request_.change = {.bits = 4, .group = 32, .symmetric = false};
  request_.algorithm = "hqq";
  make();
  EXPECT_EQ(plan_.importance.size(), 10U);  // five linears of each of two blocks
  for (const auto& [norm, linear] :
       {std::pair{"input_layernorm", "self_attn.k_proj"}, {"post_attention_layernorm", "mlp.up_proj"}}) {
    const StoredTensor& gains = source_->get(cat("model.layers.1.", norm, ".weight"));
    std::vector<float> want(64);
    gains.read_rows(0, gains.rows(), want.data());
    for (float& gain : want) gain *= gain;
    const InputFactor* inputs = plan_.inputs_of(cat("model.layers.1.", linear, ".weight"));
    ASSERT_NE(inputs, nullptr) << linear;
    EXPECT_EQ(inputs->importance, want) << linear;
  }
  EXPECT_EQ(plan_.inputs_of("model.layers.0.mlp.down_proj.weight"), nullptr);
  request_.algorithm = "search";
  EXPECT_THAT(make().importance, IsEmpty());
}

TEST_F(Plan, AGroupThatWasAskedForStays) {
  request_.change.group = 40;
  make();
  EXPECT_EQ(tensor(kQuery).spec->group, 40u);
  EXPECT_EQ(tensor(kQuery).fallback, "");
  request_.change.group = 1000;  // one group, as long as the row
  make();
  EXPECT_EQ(tensor(kDown).spec->group, 96u);
}

TEST_F(Plan, WhereNoPowerOfTwoFitsTheTensorIsKept) {
  TinyModel model;
  model.intermediate = 100;
  use(model);
  make();
  EXPECT_EQ(scheme(kDown), "keep");
  EXPECT_THAT(tensor(kDown).fallback, HasSubstr("divides 100 columns"));
  EXPECT_THAT(plan_.warnings, Contains(HasSubstr("divides 100 columns (2 tensors)")));
}

TEST_F(Plan, TheLastMatchingRuleWins) {
  request_.rules = {parse_rule(".*down_proj:bits=8,group=48"), parse_rule("model.layers.0:asym"),
                    parse_rule(R"(model\.layers\.0\.mlp\.d:bits=3,algo=search)")};
  make();
  EXPECT_EQ(scheme(kDown), "int3 sym g32");
  EXPECT_EQ(tensor(kDown).algorithm, "search");
  EXPECT_EQ(scheme("model.layers.1.mlp.down_proj"), "int8 sym g48");
  EXPECT_EQ(scheme("model.layers.0.self_attn.q_proj"), "int4 asym g64");
  EXPECT_EQ(scheme(kQuery), "int4 sym g64");
}

TEST_F(Plan, PatternsAreAnchoredLikeReMatch) {
  request_.skip = {"down_proj", ".*up_proj", R"(model\.layers\.1\.self)"};
  make();
  EXPECT_NE(scheme(kDown), "keep");
  EXPECT_EQ(scheme("model.layers.0.mlp.up_proj"), "keep");
  EXPECT_EQ(scheme(kQuery), "keep");
  EXPECT_EQ(tensor(kQuery).reason, R"(--skip 'model\.layers\.1\.self')");
  EXPECT_THAT(plan_.warnings, Contains("--skip 'down_proj' matches no module"));
}

TEST_F(Plan, ARuleThatMatchesNothingIsReported) {
  request_.rules = {parse_rule("nothing:bits=8")};
  make();
  EXPECT_THAT(plan_.warnings, Contains("--rule 'nothing:bits=8' matches no module"));
}

TEST_F(Plan, OnlyARuleThatAimsAtItReachesAKeptTensor) {
  request_.rules = {parse_rule(".*:bits=8,group=0")};
  make();
  EXPECT_EQ(scheme(kQuery), "int8 sym per channel");
  EXPECT_EQ(scheme("lm_head"), "keep");
  request_.rules = {parse_rule("lm_head:bits=8,group=0")};
  make();
  EXPECT_EQ(scheme("lm_head"), "int8 sym per channel");
}

TEST_F(Plan, RulesAloneQuantizeOnlyWhatTheyMatch) {
  request_.scheme.reset();
  request_.rules = {parse_rule(".*down_proj:bits=8,group=0")};
  make();
  EXPECT_EQ(scheme(kDown), "int8 sym per channel");
  EXPECT_EQ(scheme(kQuery), "keep");
}

TEST_F(Plan, TablesHaveTheirOwnSpecs) {
  request_.scheme = "W8A8";
  request_.embedding = parse_table("4");
  request_.lm_head = parse_table("8");
  make();
  EXPECT_EQ(scheme("model.embed_tokens"), "int4 sym g32");
  EXPECT_EQ(scheme("lm_head"), "int8 sym per channel");
  EXPECT_EQ(tensor("model.embed_tokens").activations.mode, ActivationSpec::Mode::kNone);
  EXPECT_EQ(tensor(kQuery).activations.mode, ActivationSpec::Mode::kDynamicPerToken);
}

TEST_F(Plan, TiedTablesStayTiedUnlessTheyDiffer) {
  TinyModel model;
  model.tied = true;
  use(model);
  request_.embedding = parse_table("8");
  make();
  EXPECT_TRUE(plan_.tied_embeddings);
  EXPECT_EQ(scheme("model.embed_tokens"), "int8 sym per channel");
  EXPECT_THROW(tensor("lm_head"), Error);
  EXPECT_THAT(plan_.warnings, testing::Not(Contains(HasSubstr("no longer tied"))));
  request_.lm_head = parse_table("8");
  make();
  EXPECT_TRUE(plan_.tied_embeddings);
  request_.lm_head = parse_table("4:32");
  make();
  EXPECT_FALSE(plan_.tied_embeddings);
  EXPECT_EQ(scheme("lm_head"), "int4 sym g32");
  EXPECT_EQ(tensor("lm_head").source, tensor("model.embed_tokens").source);
  EXPECT_THAT(plan_.warnings, Contains(HasSubstr("no longer tied")));
  EXPECT_THAT(error_text([&] { make_plan(*source_, request_, nullptr); }), HasSubstr("share one tensor"));
}

TEST_F(Plan, ScalesHaveTheTypeOfWhatIsNotQuantized) {
  make();
  EXPECT_EQ(tensor(kQuery).spec->scale_dtype, DType::kF32);
  TinyModel model;
  model.dtype = DType::kBF16;
  use(model);
  make();
  EXPECT_EQ(tensor(kQuery).spec->scale_dtype, DType::kBF16);
  EXPECT_EQ(tensor("model.norm").dtype, DType::kBF16);
  request_.dtype = DType::kF16;
  make();
  EXPECT_EQ(tensor(kQuery).spec->scale_dtype, DType::kF16);
  EXPECT_EQ(tensor("model.norm").dtype, DType::kF16);
}

TEST_F(Plan, RefusesEmptyAndImpossibleRequests) {
  const auto text = [&] { return error_text([&] { make(); }); };
  request_ = {};
  EXPECT_THAT(text(), HasSubstr("nothing to quantize"));
  request_.algorithm = "gptq";
  request_.calibration.from = "self";
  EXPECT_THAT(text(), HasSubstr("nothing to quantize"));
  request_ = {};
  request_.scheme = "W4A16";
  request_.algorithm = "guess";
  EXPECT_THAT(text(), HasSubstr("rtn"));
  request_.algorithm.reset();
  parse_setting("search.x=1", request_);
  EXPECT_THAT(text(), HasSubstr("'search' is not used"));
  request_.settings.clear();
  request_.skip = {"("};
  EXPECT_THAT(text(), HasSubstr("--skip '('"));
  request_.skip.clear();
  request_.change.grid = Grid::kNF4;
  request_.change.bits = 3;
  EXPECT_NE(text(), "");
}

TEST_F(Plan, FormatsWithoutCodesSayThatInputsStayFloat) {
  request_.scheme = "W8A8";
  EXPECT_THAT(make_plan(*source_, request_, &find_exporter("fake")).warnings, Contains(HasSubstr("weights only")));
  EXPECT_THAT(make().warnings, testing::Not(Contains(HasSubstr("weights only"))));
}

TEST_F(Plan, DescribesItselfAsJson) {
  make();
  const OrderedJson json = to_json(plan_);
  EXPECT_EQ(json["tensors"].size(), plan_.tensors.size());
  EXPECT_EQ(json["tensors"][0]["name"], "model.embed_tokens");
  EXPECT_EQ(json["tensors"][0]["action"], "keep");
  EXPECT_EQ(json["dtype"], "fp32");
  size_t bytes = 0;
  for (const auto& entry : json["tensors"]) bytes += entry["bytes_after"].get<size_t>();
  EXPECT_EQ(json["bytes_after"], bytes);
}

TEST_F(Plan, ASourceThatLostATensorIsRefused) {
  TinyModel model;
  model.write(folder_ / "broken");
  OrderedJson config = OrderedJson::parse(read_text_file(folder_ / "broken/config.json"));
  config["num_hidden_layers"] = 3;
  write_text_file(folder_ / "broken/config.json", config.dump());
  source_ = Source::open(folder_ / "broken");
  EXPECT_THAT(error_text([&] { make(); }), HasSubstr("model.layers.2"));
  config["num_hidden_layers"] = 2;
  config["intermediate_size"] = 90;
  write_text_file(folder_ / "broken/config.json", config.dump());
  source_ = Source::open(folder_ / "broken");
  EXPECT_THAT(error_text([&] { make(); }), HasSubstr("[96, 64]"));
}

}  // namespace
}  // namespace nibble
