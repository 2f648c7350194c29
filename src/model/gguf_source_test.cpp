#include "model/gguf_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/files.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "model/model.h"

namespace nibble {
namespace {

using testing::HasSubstr;

std::filesystem::path folder(const std::string& name) {
  return std::filesystem::path(NIBBLE_TEST_DATA) / "models" / name;
}

// Bytes of a GGUF v3 file, enough of the format for float models.
class GgufBytes {
 public:
  void key(std::string_view name, uint32_t value) { begin(name, 4), number(value); }
  void key(std::string_view name, float value) { begin(name, 6), number(value); }
  void key(std::string_view name, std::string_view value) { begin(name, 8), text(value); }
  // `shape` outermost first.
  void tensor(std::string_view name, const Shape& shape, const std::vector<float>& values) {
    std::string info;
    std::swap(info, out_);
    text(name);
    number(static_cast<uint32_t>(shape.size()));
    for (size_t i = shape.size(); i-- > 0;) number(uint64_t{shape[i]});
    number(uint32_t{0});
    number(uint64_t{data_.size()});
    infos_ += out_;
    std::swap(info, out_);
    data_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    data_.resize((data_.size() + 31) / 32 * 32);
    ++tensors_;
  }
  std::string finish() {
    std::string keys;
    std::swap(keys, out_);
    out_ = "GGUF";
    number(uint32_t{3});
    number(tensors_);
    number(keys_);
    out_ += keys + infos_;
    out_.resize((out_.size() + 31) / 32 * 32);
    return out_ + data_;
  }

 private:
  template <class T>
  void number(T value) {
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(std::string_view value) { number(uint64_t{value.size()}), out_ += value; }
  void begin(std::string_view name, uint32_t type) { text(name), number(type), ++keys_; }
  std::string out_, infos_, data_;
  uint64_t tensors_ = 0, keys_ = 0;
};

// The order in which converters write the rows of rotated heads: `reshape(heads, 2, dim / 2).swapaxes(1, 2)`.
std::vector<float> interleave(const std::vector<float>& values, size_t rows, size_t dim) {
  std::vector<float> result;
  const size_t cols = values.size() / rows;
  for (size_t head = 0; head < rows / dim; ++head)
    for (size_t i = 0; i < dim / 2; ++i)
      for (size_t j = 0; j < 2; ++j) {
        const auto row = values.begin() + static_cast<std::ptrdiff_t>((head * dim + j * dim / 2 + i) * cols);
        result.insert(result.end(), row, row + static_cast<std::ptrdiff_t>(cols));
      }
  return result;
}

// A folder's model as a converter would write it; `change` may add to it.
std::string as_gguf(const std::string& name, const std::function<void(GgufBytes&)>& change = {}) {
  const auto source = Source::open(folder(name));
  const ModelConfig config = parse_config(source->config());
  const Architecture& architecture = *config.architecture;
  GgufBytes gguf;
  const std::string prefix = cat(architecture.gguf_name, ".");
  gguf.key("general.architecture", architecture.gguf_name);
  gguf.key(prefix + "block_count", static_cast<uint32_t>(config.layers));
  gguf.key(prefix + "embedding_length", static_cast<uint32_t>(config.hidden_size));
  gguf.key(prefix + "feed_forward_length", static_cast<uint32_t>(config.intermediate_size));
  gguf.key(prefix + "attention.head_count", static_cast<uint32_t>(config.heads));
  gguf.key(prefix + "attention.head_count_kv", static_cast<uint32_t>(config.kv_heads));
  gguf.key(prefix + "attention.key_length", static_cast<uint32_t>(config.head_dim));
  gguf.key(prefix + "context_length", static_cast<uint32_t>(config.max_positions));
  gguf.key(prefix + "attention.layer_norm_rms_epsilon", config.norm_eps);
  gguf.key(prefix + "rope.freq_base", static_cast<float>(config.rope.theta));
  gguf.key("tokenizer.ggml.bos_token_id", uint32_t{1});
  gguf.key("tokenizer.ggml.eos_token_id", uint32_t{2});
  for (const auto& tensor : source->tensors()) {
    const auto place = find_hf_tensor(architecture, tensor->name());
    std::vector<float> values(element_count(tensor->shape()));
    tensor->read_rows(0, tensor->rows(), values.data());
    if (place->rule->gguf_interleaved) values = interleave(values, tensor->rows(), config.head_dim);
    gguf.tensor(tensor_name(place->rule->gguf, place->layer, place->bias), tensor->shape(), values);
  }
  if (change) change(gguf);
  return gguf.finish();
}

std::unique_ptr<Source> open(const std::string& bytes) {
  const auto owner = std::make_shared<const std::string>(bytes);
  return make_gguf_source(Gguf::parse(std::as_bytes(std::span(*owner)), owner), "model.gguf");
}

std::vector<float> logits(const Source& source) {
  const auto model = Model::load(source);
  const std::vector<TokenId> ids = {3, 50, 200, 7, 255, 0, 99, 12};
  const auto cache = model->make_cache(ids.size(), CacheType::kF32);
  std::vector<float> result(ids.size() * model->config().vocab_size);
  model->forward(ids, *cache, matrix(result.data(), ids.size(), model->config().vocab_size));
  return result;
}

class AsGguf : public testing::TestWithParam<const char*> {};

TEST_P(AsGguf, IsTheSameModel) {
  const auto hf = Source::open(folder(GetParam()));
  const auto gguf = open(as_gguf(GetParam()));
  EXPECT_EQ(gguf->tensors().size(), hf->tensors().size());
  for (const auto& tensor : hf->tensors()) {
    std::vector<float> want(element_count(tensor->shape())), got(want.size());
    const StoredTensor& other = gguf->get(tensor->name());
    ASSERT_EQ(other.shape(), tensor->shape());
    tensor->read_rows(0, tensor->rows(), want.data());
    const size_t cut = tensor->rows() / 3;
    other.read_rows(0, cut, got.data());
    other.read_rows(cut, other.rows(), got.data() + cut * other.cols());
    EXPECT_EQ(got, want) << tensor->name();
    other.release(cut, other.rows());
  }
  for (const char* key : {"architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size",
                          "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
                          "rms_norm_eps", "tie_word_embeddings", "bos_token_id", "eos_token_id", "hidden_act", "dtype"})
    EXPECT_EQ(gguf->config().at(key), hf->config().at(key)) << key;
  EXPECT_EQ(logits(*gguf), logits(*hf));
}

INSTANTIATE_TEST_SUITE_P(Families, AsGguf, testing::Values("llama", "llama-tied-bias", "qwen2", "qwen3"),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(GgufSource, Llama3ScalingIsRecoveredFromItsFactors) {
  // The factors of golden model llama3-rope: factor 8, original context 16, theta 500000, 16 dimensions.
  const auto with_factors = [](float last) {
    return as_gguf("llama3-rope", [last](GgufBytes& gguf) {
      std::vector<float> factors;
      for (size_t i = 0; i < 8; ++i) {
        const double frequency = std::pow(500000.0, -static_cast<double>(i) / 8),
                     turns = 16 * frequency / 6.283185307179586;
        const double kept = std::clamp((turns - 1) / 3, 0.0, 1.0);
        factors.push_back(static_cast<float>(1 / ((1 - kept) / 8 + kept)));
      }
      factors.back() = last;
      gguf.key("llama.rope.scaling.original_context_length", uint32_t{16});
      gguf.tensor("rope_freqs.weight", {8}, factors);
    });
  };
  const auto source = open(with_factors(8.0f));
  const Json& scaling = source->config().at("rope_scaling");
  EXPECT_EQ(scaling.at("rope_type"), "llama3");
  EXPECT_EQ(scaling.at("factor"), 8.0);
  EXPECT_EQ(source->find("rope_freqs.weight"), nullptr);
  EXPECT_EQ(logits(*source), logits(*Source::open(folder("llama3-rope"))));
  EXPECT_THAT(error_text([&] { open(with_factors(9.0f)); }), HasSubstr("rope_freqs.weight are not those of Llama 3"));
}

TEST(GgufSource, LinearAndYarnScaling) {
  const auto config = [](std::string_view type, float attention) {
    return open(as_gguf("llama",
                        [&](GgufBytes& gguf) {
                          gguf.key("llama.rope.scaling.type", type);
                          gguf.key("llama.rope.scaling.factor", 4.0f);
                          gguf.key("llama.rope.scaling.original_context_length", uint32_t{32});
                          gguf.key("llama.rope.scaling.attn_factor", attention);
                        }))
        ->config();
  };
  EXPECT_EQ(parse_config(config("none", 1)).rope.kind, RopeConfig::Kind::kDefault);
  EXPECT_EQ(parse_config(config("linear", 1)).rope.factor, 4.0);
  const RopeConfig yarn = parse_config(config("yarn", 1)).rope;
  EXPECT_EQ(yarn.kind, RopeConfig::Kind::kYarn);
  EXPECT_EQ(yarn.original_context, 32u);
  EXPECT_NEAR(yarn.attention_factor, 1.1386294361, 1e-9);
  EXPECT_NEAR(parse_config(config("yarn", 2)).rope.attention_factor, 2 * 1.1386294361, 1e-9);
  EXPECT_THAT(error_text([&] { config("longrope", 1); }), HasSubstr("'longrope'"));
}

TEST(GgufSource, FaultsAreNamed) {
  const auto fault = [](const std::function<void(GgufBytes&)>& change) {
    return error_text([&] { open(as_gguf("llama", change)); });
  };
  EXPECT_THAT(
      fault([](GgufBytes& gguf) {
        gguf.tensor("blk.0.ffn_gate_inp.weight", {4, 64}, std::vector<float>(256));
      }),
      HasSubstr("model.gguf: tensor blk.0.ffn_gate_inp.weight is not one that architecture 'llama' is known to have"));
  EXPECT_THAT(fault([](GgufBytes& gguf) { gguf.key("llama.rope.dimension_count", uint32_t{8}); }),
              HasSubstr("rope.dimension_count is 8 of 16"));
  EXPECT_THAT(fault([](GgufBytes& gguf) {
                gguf.tensor("rope_freqs.weight", {3}, {1, 1, 1});
              }),
              HasSubstr("has 3 elements, expected 8"));
  EXPECT_THAT(fault([](GgufBytes& gguf) {
                gguf.tensor("blk.9.attn_q.weight", {24, 64}, std::vector<float>(24 * 64));
              }),
              HasSubstr("blk.9.attn_q.weight does not consist of heads of 16 rows"));
  const auto alone = [](const std::function<void(GgufBytes&)>& fill) {
    return error_text([&] {
      GgufBytes gguf;
      fill(gguf);
      open(gguf.finish());
    });
  };
  EXPECT_THAT(alone([](GgufBytes&) {}), HasSubstr("general.architecture is missing"));
  EXPECT_THAT(alone([](GgufBytes& gguf) { gguf.key("general.architecture", "rwkv"); }),
              HasSubstr("'rwkv' is not known; known are llama, qwen2, qwen3"));
  EXPECT_THAT(alone([](GgufBytes& gguf) { gguf.key("general.architecture", "llama"); }),
              HasSubstr("llama.block_count is missing"));
  EXPECT_THAT(
      alone([](GgufBytes& gguf) {
        gguf.key("general.architecture", "llama");
        for (const char* key : {"block_count", "embedding_length", "feed_forward_length", "attention.head_count"})
          gguf.key(cat("llama.", key), uint32_t{2});
      }),
      HasSubstr("token_embd.weight is missing; does the file hold only a vocabulary?"));
}

TEST(GgufSource, MissingAndMisshapenTensorsAreFoundWhenLoading) {
  const std::string bytes = as_gguf("llama");
  std::string renamed = bytes;
  renamed.replace(renamed.find("blk.1.ffn_up.weight"), 19, "blk.7.ffn_up.weight");
  EXPECT_THAT(error_text([&] { Model::load(*open(renamed)); }),
              HasSubstr("model.gguf: tensor model.layers.1.mlp.up_proj.weight is missing"));
  std::string grown = bytes;
  const size_t length = grown.find("llama.feed_forward_length") + 25 + 4;
  grown[length] = 97;
  EXPECT_THAT(error_text([&] { Model::load(*open(grown)); }),
              HasSubstr("mlp.gate_proj.weight has the shape [96, 64], config.json asks for [97, 64]"));
}

TEST(GgufSource, OpensFilesByTheirEnding) {
  TestFolder folder_of_test;
  write_text_file(folder_of_test / "tiny.GGUF", as_gguf("qwen3"));
  const auto source = Source::open(folder_of_test / "tiny.GGUF");
  EXPECT_EQ(source->kind(), "gguf v3");
  EXPECT_TRUE(source->side_files().empty());
  EXPECT_THROW(source->side_file("tokenizer.json"), Error);
  write_text_file(folder_of_test / "model.h5", "x");
  EXPECT_EQ(error_kind([&] { Source::open(folder_of_test / "model.h5"); }), ErrorKind::kUnsupported);
  EXPECT_EQ(error_kind([&] { Source::open(folder_of_test / "nothing"); }), ErrorKind::kIo);
}

}  // namespace
}  // namespace nibble
