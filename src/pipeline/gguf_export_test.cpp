#include <gmock/gmock.h>

#include <cmath>

#include "core/test_errors.h"
#include "core/test_folder.h"
#include "export/gguf_scheme.h"
#include "model/config.h"
#include "model/load_tokenizer.h"
#include "model/rope.h"
#include "pipeline/quantize.h"
#include "pipeline/statistics.h"
#include "pipeline/tiny_model.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::HasSubstr;

std::vector<float> values(const StoredTensor& tensor) {
  std::vector<float> out(element_count(tensor.shape()));
  tensor.read_rows(0, tensor.rows(), out.data());
  return out;
}

// Rows of whole blocks of 256.
TinyModel wide() {
  TinyModel model;
  model.hidden = 256;
  model.intermediate = 512;
  model.layers = 1;
  return model;
}

class GgufExport : public testing::Test {
 protected:
  void use(const TinyModel& model) {
    model.write(folder_ / "model");
    source_ = Source::open(folder_ / "model");
  }
  QuantizePlan plan() const { return make_plan(*source_, request_, &find_exporter("gguf")); }
  std::unique_ptr<Source> quantize(const std::string& out) {
    run_plan(*source_, plan(), {&find_exporter("gguf")}, folder_ / out);
    return Source::open(folder_ / out);
  }
  std::unique_ptr<Source> convert(const Source& source, const std::string& out, const std::string& format = "gguf",
                                  std::optional<DType> dtype = {}) {
    const ExporterEntry& entry = find_exporter(format);
    run_plan(source, make_convert_plan(source, dtype, entry), {&entry}, folder_ / out);
    return Source::open(folder_ / out);
  }
  static void expect_same_values(const Source& a, const Source& b) {
    ASSERT_EQ(a.tensors().size(), b.tensors().size());
    for (const auto& tensor : a.tensors()) EXPECT_EQ(values(*tensor), values(b.get(tensor->name()))) << tensor->name();
  }

  TestFolder folder_;
  std::unique_ptr<Source> source_;
  QuantizeRequest request_;
};

TEST_F(GgufExport, EverySchemeIsReadBackCloseToTheOriginal) {
  use(wide());
  for (const std::string& name : gguf_scheme_names()) {
    request_.scheme = name;
    const auto back = quantize(name + ".gguf");
    ASSERT_EQ(back->tensors().size(), source_->tensors().size());
    EXPECT_EQ(back->gguf()->find_unsigned("general.file_type"), find_gguf_scheme(name)->file_type);
    for (const auto& tensor : source_->tensors()) {
      const auto want = values(*tensor), got = values(back->get(tensor->name()));
      double error = 0, signal = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        error += std::pow(double{got[i]} - double{want[i]}, 2);
        signal += std::pow(double{want[i]}, 2);
      }
      EXPECT_LT(error, 0.1 * signal) << name << " " << tensor->name();
      if (tensor->shape().size() == 1) {
        EXPECT_EQ(error, 0) << name << " " << tensor->name();
      }
    }
    // Blocks move as they are, whatever the type.
    const auto again = convert(*back, name + "-again.gguf");
    for (const auto& tensor : back->tensors()) {
      const StoredTensor& other = again->get(tensor->name());
      ASSERT_EQ(other.type_name(), tensor->type_name()) << name;
      if (tensor->block_type()) {
        EXPECT_EQ(other.read_blocks(0, other.rows()), tensor->read_blocks(0, tensor->rows())) << name;
      }
    }
    expect_same_values(*back, *again);
  }
}

TEST_F(GgufExport, FloatsComeBackAndSoDoesTheConfiguration) {
  for (const char* name : {"llama", "llama-tied-bias", "llama3-rope", "mistral-window", "qwen2", "qwen3"}) {
    const auto source = Source::open(fs::path(NIBBLE_TEST_DATA) / "models" / name);
    const auto back = convert(*source, cat(name, ".gguf"), "gguf", DType::kF32);
    expect_same_values(*source, *back);
    const ModelConfig want = parse_config(source->config()), got = parse_config(back->config());
    EXPECT_EQ(got.heads, want.heads);
    EXPECT_EQ(got.kv_heads, want.kv_heads);
    EXPECT_EQ(got.head_dim, want.head_dim);
    EXPECT_EQ(got.intermediate_size, want.intermediate_size);
    EXPECT_EQ(got.max_positions, want.max_positions);
    EXPECT_EQ(got.tied_embeddings, want.tied_embeddings);
    EXPECT_EQ(got.norm_eps, want.norm_eps);
    EXPECT_EQ(got.bias, want.bias);
    EXPECT_EQ(got.window, want.window);
    const auto a = rope_frequencies(want.rope), b = rope_frequencies(got.rope);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(b[i], a[i], 1e-6 * a[i]) << name;
  }
}

TEST_F(GgufExport, NarrowRowsFallBackAndThePlanSaysSo) {
  use({});
  request_.scheme = "q4_k_m";
  const QuantizePlan planned = plan();
  EXPECT_THAT(planned.warnings, Contains(HasSubstr("Q4_K needs rows of a multiple of 256 columns, not 64: Q5_0")));
  EXPECT_EQ(planned.find("model.layers.0.mlp.up_proj.weight")->spec->bits, 5);
  EXPECT_THAT(planned.find("model.layers.0.mlp.up_proj.weight")->fallback, HasSubstr("Q5_0"));
  EXPECT_EQ(quantize("a.gguf")->get("model.layers.1.mlp.down_proj.weight").type_name(), "Q8_0");
  request_.allow_fallback = false;
  EXPECT_THAT(error_text([&] { plan(); }), HasSubstr("needs rows of a multiple of 256"));
}

TEST_F(GgufExport, RequestsThatMakeNoSenseAreRefusedBeforeAnyWork) {
  use(wide());
  request_.scheme = "Q4_K_M";
  EXPECT_THAT(error_text([&] { make_plan(*source_, request_, &find_exporter("hf")); }), HasSubstr("--format gguf"));
  request_.algorithm = "gptq";
  EXPECT_THAT(error_text([&] { plan(); }), HasSubstr("cannot make the two-level scales of Q4_K"));
  request_.algorithm.reset();
  request_.change.bits = 3;
  EXPECT_THAT(error_text([&] { plan(); }), HasSubstr("leaves no choice of bits"));
  request_ = {};
  request_.scheme = "W8A8";
  EXPECT_THAT(error_text([&] { plan(); }), HasSubstr("no words for quantized activations"));
  request_.scheme = "W3A16";
  EXPECT_THAT(error_text([&] { plan(); }), HasSubstr("no blocks for int3 asym"));
  EXPECT_THAT(error_text([] { scheme_in_formats("gguf:Q9"); }), HasSubstr("known are F32, F16"));
  EXPECT_THAT(error_text([] { scheme_in_formats("hf:Q4_0"); }), HasSubstr("no types of its own"));
  EXPECT_EQ(scheme_in_formats("hf,gguf:Q4_0"), "Q4_0");
}

TEST_F(GgufExport, OtherSchemesAndAlgorithmsFillPlainBlocks) {
  use({});
  request_.scheme = "W4A16";
  request_.algorithm = "search";
  EXPECT_EQ(quantize("sym.gguf")->get("model.layers.0.mlp.up_proj.weight").type_name(), "Q4_0");
  request_.scheme = "Q4_0";
  EXPECT_EQ(quantize("search.gguf")->get("model.layers.0.mlp.up_proj.weight").type_name(), "Q4_0");
  request_.embedding = TableChoice{.keep = false, .bits = 8, .group = {}};
  EXPECT_EQ(quantize("embedding.gguf")->get("model.embed_tokens.weight").type_name(), "Q8_0");
}

TEST_F(GgufExport, CodesMoveWhereBlocksHoldThem) {
  TinyModel halves;
  halves.dtype = DType::kF16;
  use(halves);
  request_.change.bits = 4;
  request_.change.group = 32;
  const ExporterEntry& hf = find_exporter("hf");
  run_plan(*source_, make_plan(*source_, request_, &hf), {&hf}, folder_ / "sym");
  const auto sym = Source::open(folder_ / "sym");
  const auto moved = convert(*sym, "moved.gguf");
  EXPECT_EQ(moved->get("model.layers.0.mlp.up_proj.weight").type_name(), "Q4_0");
  expect_same_values(*sym, *moved);
  request_.change.symmetric = false;
  run_plan(*source_, make_plan(*source_, request_, &hf), {&hf}, folder_ / "asym");
  const auto asym = Source::open(folder_ / "asym");
  EXPECT_THAT(error_text([&] { convert(*asym, "asym.gguf"); }), HasSubstr("no blocks for int4 asym g32"));
  EXPECT_FALSE(fs::exists(folder_ / "asym.gguf"));
}

TEST_F(GgufExport, TokenizersKeepTheirMeaning) {
  for (const char* name : {"byte-level", "byte-fallback"}) {
    const fs::path data = fs::path(NIBBLE_TEST_DATA) / "tokenizers";
    const Json json = read_json_file(data / cat(name, ".json"));
    size_t tokens = 0;
    for (const auto& [text, id] : json["model"]["vocab"].items()) tokens = std::max(tokens, id.get<size_t>() + 1);
    for (const Json& added : json["added_tokens"]) tokens = std::max(tokens, added["id"].get<size_t>() + 1);
    TinyModel model;
    model.vocab = tokens + 3;
    use(model);
    fs::copy_file(data / cat(name, ".json"), folder_ / "model/tokenizer.json", fs::copy_options::overwrite_existing);
    write_text_file(folder_ / "model/chat_template.jinja", "{{ messages }}");
    const auto back = convert(*source_, cat(name, ".gguf"));
    EXPECT_EQ(back->side_file("chat_template.jinja"), "{{ messages }}");
    // GGUF has no words for a tokenizer's own decoder, nor for added tokens that swallow spaces or want to be words of
    // their own: what counts is that other text becomes the same ids.
    const auto plain = [&](const std::string& text) {
      for (const Json& added : json["added_tokens"])
        for (const char* flag : {"lstrip", "rstrip", "single_word", "normalized"})
          if (added.value(flag, false) && text.find(added["content"].get<std::string>()) != std::string::npos)
            return false;
      return true;
    };
    const auto tokenizer = load_tokenizer(folder_ / cat(name, ".gguf"));
    size_t compared = 0;
    for (const Json& c : read_json_file(data / cat(name, ".cases.json"))) {
      if (!plain(c.at("text").get<std::string>())) continue;
      ++compared;
      EXPECT_EQ(tokenizer->encode(c.at("text").get<std::string>(), false), c.at("ids").get<std::vector<TokenId>>())
          << name << " " << c.at("text").dump().substr(0, 100);
    }
    EXPECT_GT(compared, 20u);
  }
}

TEST_F(GgufExport, StatisticsChooseTheWeights) {
  TinyModel tied;
  tied.tied = true;
  use(tied);
  CalibrationData data;
  data.source = "test";
  for (TokenId d = 0; d < 3; ++d) data.documents.push_back({1, 5, static_cast<TokenId>(9 + d), 40, 77});
  const Imatrix imatrix = collect_statistics(*source_, data, false, no_progress());
  EXPECT_EQ(imatrix.entries.size(), 14u);
  EXPECT_EQ(imatrix.entries.find("blk.1.ffn_down.weight")->second.tokens, 15);
  write_imatrix(imatrix, folder_ / "stats.gguf", false);
  request_.scheme = "Q4_0";
  const auto without = quantize("without.gguf");
  request_.stats = folder_ / "stats.gguf";
  const auto with = quantize("with.gguf");
  const std::string up = "model.layers.0.mlp.up_proj.weight";
  EXPECT_NE(values(without->get(up)), values(with->get(up)));
  // Outputs on such inputs: the squared error weighted by the inputs' mean squares.
  const auto h = importance_of(imatrix, *source_).find(up)->second.importance;
  const auto error = [&](const Source& source) {
    const auto w = values(source_->get(up)), v = values(source.get(up));
    double sum = 0;
    for (size_t i = 0; i < w.size(); ++i) sum += double{h[i % h.size()]} * std::pow(double{w[i]} - double{v[i]}, 2);
    return sum;
  };
  EXPECT_LT(error(*with), error(*without));
  request_.algorithm = "gptq";
  EXPECT_THAT(error_text([&] { plan(); }), HasSubstr("needs more of a linear's inputs"));
  TinyModel narrow;
  narrow.hidden = 32;
  use(narrow);
  request_.algorithm.reset();
  EXPECT_THAT(error_text([&] { plan(); }), HasSubstr("another model"));
}

}  // namespace
}  // namespace nibble
