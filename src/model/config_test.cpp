#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/test_errors.h"

namespace nibble {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

// A small config.json of a family, with `changes` on top.
Json config_of(std::string_view class_name, const Json& changes = Json::object()) {
  Json config = {{"architectures", {class_name}}, {"vocab_size", 256},      {"hidden_size", 64},
                 {"intermediate_size", 96},       {"num_hidden_layers", 4}, {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},      {"head_dim", 16},         {"max_position_embeddings", 128},
                 {"rms_norm_eps", 1e-5}};
  config.update(changes);
  return config;
}

ModelConfig llama(const Json& changes) { return parse_config(config_of("LlamaForCausalLM", changes)); }

TEST(Config, NumbersArrive) {
  const ModelConfig config = llama({{"rope_theta", 5e5}, {"tie_word_embeddings", true}});
  EXPECT_EQ(config.architecture->name, "llama");
  EXPECT_EQ(config.vocab_size, 256u);
  EXPECT_EQ(config.hidden_size, 64u);
  EXPECT_EQ(config.intermediate_size, 96u);
  EXPECT_EQ(config.layers, 4u);
  EXPECT_EQ(config.query_size(), 64u);
  EXPECT_EQ(config.kv_size(), 32u);
  EXPECT_EQ(config.max_positions, 128u);
  EXPECT_EQ(config.norm_eps, 1e-5f);
  EXPECT_EQ(config.attention_scale, 0.25f);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.rope.theta, 5e5);
  EXPECT_EQ(config.rope.dims, 16u);
}

TEST(Config, NullIsAValueAndAbsenceIsTheDefault) {
  Json config = config_of("LlamaForCausalLM",
                          {{"head_dim", nullptr}, {"num_key_value_heads", nullptr}, {"num_attention_heads", 2}});
  EXPECT_EQ(parse_config(config).head_dim, 32u);
  EXPECT_EQ(parse_config(config).kv_heads, 2u);
  config = config_of("Qwen3ForCausalLM");
  config.erase("head_dim");
  EXPECT_EQ(parse_config(config).head_dim, 128u);
  EXPECT_THAT(parse_config(config_of("MistralForCausalLM")).window, Each(4096u));
  EXPECT_THAT(parse_config(config_of("MistralForCausalLM", {{"sliding_window", nullptr}})).window, Each(0u));
  EXPECT_THAT(parse_config(config_of("MistralForCausalLM", {{"sliding_window", 7}})).window, Each(7u));
}

TEST(Config, QwenWindowsTheUpperLayersWhenAsked) {
  const auto windows = [](const Json& changes) { return parse_config(config_of("Qwen2ForCausalLM", changes)).window; };
  EXPECT_THAT(windows({{"sliding_window", 8}, {"max_window_layers", 3}}), Each(0u));
  EXPECT_THAT(windows({{"use_sliding_window", true}, {"sliding_window", 8}, {"max_window_layers", 3}}),
              ElementsAre(0, 0, 0, 8));
  EXPECT_THAT(
      windows({{"use_sliding_window", true},
               {"sliding_window", 8},
               {"layer_types", {"sliding_attention", "full_attention", "full_attention", "sliding_attention"}}}),
      ElementsAre(8, 0, 0, 8));
}

TEST(Config, BiasesFollowTheFamilyAndItsKeys) {
  const auto biased = [](const ModelConfig& config, Slot slot) {
    return config.bias[static_cast<size_t>(config.architecture->find(slot) - config.architecture->tensors.data())];
  };
  const ModelConfig plain = llama(Json::object()), attention = llama({{"attention_bias", true}}),
                    mlp = llama({{"mlp_bias", true}});
  const ModelConfig qwen = parse_config(config_of("Qwen2ForCausalLM"));
  EXPECT_FALSE(biased(plain, Slot::kQuery));
  EXPECT_TRUE(biased(attention, Slot::kAttentionOutput));
  EXPECT_FALSE(biased(attention, Slot::kDown));
  EXPECT_TRUE(biased(mlp, Slot::kDown));
  EXPECT_TRUE(biased(qwen, Slot::kValue));
  EXPECT_FALSE(biased(qwen, Slot::kAttentionOutput));
}

TEST(Config, BothSpellingsOfRopeScaling) {
  const Json llama3 = {
      {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 16}};
  Json legacy = llama3, current = llama3;
  legacy["type"] = "llama3";
  current["rope_type"] = "llama3";
  current["rope_theta"] = 5e5;
  for (const ModelConfig& config :
       {llama({{"rope_scaling", legacy}, {"rope_theta", 5e5}}), llama({{"rope_parameters", current}})}) {
    EXPECT_EQ(config.rope.kind, RopeConfig::Kind::kLlama3);
    EXPECT_EQ(config.rope.theta, 5e5);
    EXPECT_EQ(config.rope.factor, 8.0);
    EXPECT_EQ(config.rope.original_context, 16u);
  }
}

TEST(Config, YarnFillsInWhatIsLeftOut) {
  const RopeConfig rope =
      llama({{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32}}}})
          .rope;
  EXPECT_EQ(rope.kind, RopeConfig::Kind::kYarn);
  EXPECT_NEAR(rope.attention_factor, 1.1386294361, 1e-9);  // 0.1 ln 4 + 1
  EXPECT_EQ(rope.beta_fast, 32.0);
  const RopeConfig given =
      llama({{"rope_scaling",
              {{"rope_type", "yarn"}, {"original_max_position_embeddings", 32}, {"attention_factor", 1.5}}}})
          .rope;
  EXPECT_EQ(given.attention_factor, 1.5);
  EXPECT_EQ(given.factor, 4.0);  // 128 / 32
}

TEST(Config, FaultsAreNamed) {
  const std::pair<Json, const char*> faults[] = {
      {{{"vocab_size", 0}}, "'vocab_size' is 0"},
      {{{"vocab_size", 1e9}}, "'vocab_size'"},
      {{{"hidden_size", "64"}}, "'hidden_size' should be"},
      {{{"hidden_size", nullptr}}, "'hidden_size' is missing"},
      {{{"intermediate_size", -3}}, "'intermediate_size'"},
      {{{"num_hidden_layers", 5000}}, "'num_hidden_layers' is 5000"},
      {{{"num_key_value_heads", 3}}, "does not divide 'num_attention_heads' 4"},
      {{{"head_dim", nullptr}, {"hidden_size", 62}}, "does not divide 'hidden_size' 62"},
      {{{"head_dim", 15}}, "heads of 15"},
      {{{"num_attention_heads", 1 << 26}, {"head_dim", 8192}}, "is more than"},
      {{{"rms_norm_eps", -1}}, "'rms_norm_eps'"},
      {{{"rms_norm_eps", "x"}}, "'rms_norm_eps' should be a number"},
      {{{"rope_theta", 0}}, "'rope_theta'"},
      {{{"hidden_act", "gelu"}}, "'gelu'"},
      {{{"rope_scaling", "yarn"}}, "'rope_scaling' should be an object"},
      {{{"rope_scaling", {{"type", "dynamic"}}}}, "'dynamic'"},
      {{{"rope_scaling", {{"type", "longrope"}}}}, "'longrope'"},
      {{{"rope_scaling", {{"type", "linear"}}}}, "'factor' is missing"},
      {{{"rope_parameters", {{"rope_type", "linear"}, {"factor", 0}}}}, "'rope_parameters'.'factor' is 0"},
      {{{"rope_parameters", {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}}},
       "larger than"},
      {{{"rope_parameters", {{"rope_type", 3}}}}, "'rope_type' should be a string"},
      {{{"partial_rotary_factor", 0.01}}, "'partial_rotary_factor'"},
      {{{"tie_word_embeddings", 1}}, "'tie_word_embeddings'"},
      {{{"use_sliding_window", true}, {"sliding_window", 8}, {"layer_types", {"full_attention"}}},
       "'layer_types' should be a list of 4"},
      {{{"use_sliding_window", true}, {"sliding_window", 8}, {"layer_types", {"a", "b", "c", "d"}}},
       "\"a\" at layer 0"},
      {{{"architectures", Json::array()}}, "'architectures'"},
      {{{"architectures", {"BertModel"}}},
       "architecture 'BertModel' is not known; known are LlamaForCausalLM, MistralForCausalLM"},
  };
  for (const auto& fault : faults) {
    const Json& changes = fault.first;
    const std::string text = error_text([&, &changes = changes] { llama(changes); });
    EXPECT_THAT(text, HasSubstr(fault.second)) << changes.dump();
    EXPECT_THAT(text, testing::StartsWith("config.json: ")) << changes.dump();
  }
  EXPECT_EQ(error_kind([] { llama({{"architectures", {"BertModel"}}}); }), ErrorKind::kUnsupported);
  EXPECT_NE(error_text([] { parse_config(Json::array()); }), "");
}

TEST(Config, EveryValueOfTheWrongTypeIsAnErrorOrIgnored) {
  const Json whole = config_of("Qwen3ForCausalLM", {{"rope_parameters", {{"rope_type", "yarn"}, {"factor", 2.0}}},
                                                    {"use_sliding_window", true},
                                                    {"sliding_window", 4},
                                                    {"attention_bias", false},
                                                    {"max_window_layers", 1}});
  const Json strangers[] = {nullptr,          true,          -1, 0, 1e300, 18446744073709551615u, "text", Json::array(),
                            Json::array({1}), Json::object()};
  for (const auto& [key, value] : whole.items())
    for (const Json& stranger : strangers) {
      Json config = whole;
      config[key] = stranger;
      error_text([&] { parse_config(config); });  // any other exception fails the test
    }
}

TEST(Architecture, NamesMapBothWays) {
  const Architecture& architecture = get_gguf_architecture("llama");
  const auto place = find_gguf_tensor(architecture, "blk.17.attn_q.bias");
  ASSERT_TRUE(place);
  EXPECT_EQ(place->layer, 17u);
  EXPECT_TRUE(place->bias);
  EXPECT_TRUE(place->rule->gguf_interleaved);
  EXPECT_EQ(tensor_name(place->rule->hf, place->layer, place->bias), "model.layers.17.self_attn.q_proj.bias");
  EXPECT_EQ(role_of(architecture, "model.layers.17.self_attn.q_proj.bias"), TensorRole::kBias);
  EXPECT_EQ(role_of(architecture, "model.layers.17.self_attn.q_proj.weight"), TensorRole::kLinear);
  EXPECT_EQ(role_of(architecture, "lm_head.weight"), TensorRole::kLmHead);
  EXPECT_EQ(role_of(architecture, "model.layers.0.self_attn.q_norm.weight"), TensorRole::kOther);  // llama has none
  for (const char* name : {"blk..attn_q.weight", "blk.01.attn_q.weight", "blk.-1.attn_q.weight",
                           "blk.99999999999999999999999.attn_q.weight", "blk.1.attn_q", "attn_q.weight", ".weight", ""})
    EXPECT_FALSE(find_gguf_tensor(architecture, name)) << name;
}

TEST(Architecture, EveryFamilyIsComplete) {
  EXPECT_GE(architectures().size(), 4u);
  for (const Architecture* architecture : architectures()) {
    EXPECT_EQ(&get_architecture(architecture->class_name), architecture);
    for (const Slot slot :
         {Slot::kEmbedding, Slot::kFinalNorm, Slot::kLmHead, Slot::kAttentionNorm, Slot::kQuery, Slot::kKey,
          Slot::kValue, Slot::kAttentionOutput, Slot::kMlpNorm, Slot::kGate, Slot::kUp, Slot::kDown})
      EXPECT_NE(architecture->find(slot), nullptr) << architecture->name;
    EXPECT_NO_THROW(parse_config(config_of(architecture->class_name))) << architecture->name;
  }
}

}  // namespace
}  // namespace nibble
