// Codes survive the trip from one format to another, or are refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/random.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "pipeline/quantize.h"
#include "pipeline/tiny_model.h"

namespace nibble {
namespace {

using testing::Contains;
using testing::HasSubstr;

class Formats : public testing::Test {
 protected:
  void SetUp() override {
    TinyModel{}.write(folder_ / "model");
    source_ = Source::open(folder_ / "model");
  }
  std::unique_ptr<Source> quantize(const std::string& out, const std::string& formats) {
    const auto entries = parse_formats(formats);
    request_.scale_dtype = common_scale_dtype(entries);
    const QuantizePlan plan = make_plan(*source_, request_, entries.front());
    run_plan(*source_, plan, entries, folder_ / out, {.force = true});
    return entries.size() > 1 ? nullptr : Source::open(folder_ / out);
  }
  std::unique_ptr<Source> convert(const Source& from, const std::string& out, const std::string& format,
                                  bool allow = false) {
    const ExporterEntry& entry = find_exporter(format);
    const QuantizePlan plan = make_convert_plan(from, {}, entry, allow);
    warnings_ = plan.warnings;
    run_plan(from, plan, {&entry}, folder_ / out, {.force = true});
    return Source::open(folder_ / out);
  }
  static std::vector<float> values(const StoredTensor& tensor) {
    std::vector<float> out(element_count(tensor.shape()));
    tensor.read_rows(0, tensor.rows(), out.data());
    return out;
  }
  // Every linear's codes, scales and zero points.
  static void expect_same_codes(const Source& a, const Source& b, const std::string& what) {
    ASSERT_EQ(a.tensors().size(), b.tensors().size()) << what;
    for (const auto& tensor : a.tensors()) {
      const StoredTensor& other = b.get(tensor->name());
      ASSERT_EQ(tensor->spec().has_value(), other.spec().has_value()) << what << tensor->name();
      EXPECT_EQ(values(*tensor), values(other)) << what << tensor->name();
      if (!tensor->spec()) continue;
      const QuantizedMatrix x = tensor->read_codes(0, tensor->rows()), y = other.read_codes(0, tensor->rows());
      EXPECT_EQ(x.codes, y.codes) << what << tensor->name();
      EXPECT_EQ(x.scales, y.scales) << what << tensor->name();
      EXPECT_EQ(x.spec.bits, y.spec.bits) << what;
      EXPECT_EQ(x.spec.scale_dtype, y.spec.scale_dtype) << what;
    }
  }

  TestFolder folder_;
  std::unique_ptr<Source> source_;
  QuantizeRequest request_;
  std::vector<std::string> warnings_;
};

TEST_F(Formats, SeveralFormatsHoldTheSameCodes) {
  for (const bool symmetric : {true, false}) {
    request_.change = {.bits = 4, .group = 32, .symmetric = symmetric};
    quantize("all", symmetric ? "hf,gptq,gptq:v2,awq,gguf" : "hf,gptq,gptq:v2,awq");
    const auto hf = Source::open(folder_ / "all/hf");
    if (symmetric) {  // a file without an ending is known by how it begins
      const auto gguf = Source::open(folder_ / "all/gguf");
      EXPECT_EQ(gguf->get("model.layers.0.mlp.up_proj.weight").type_name(), "Q4_0");
      for (const auto& tensor : hf->tensors()) EXPECT_EQ(values(*tensor), values(gguf->get(tensor->name())));
    }
    for (const char* name : {"gptq", "gptq:v2", "awq"})
      expect_same_codes(*hf, *Source::open(folder_ / "all" / name), cat(name, " ", symmetric, " "));
    EXPECT_EQ(read_json_file(folder_ / "all/gptq/config.json")["quantization_config"]["checkpoint_format"],
              symmetric ? "gptq" : "gptq_v2");
    EXPECT_EQ(hf->get("model.layers.0.mlp.up_proj.weight").spec()->scale_dtype, DType::kF16);
  }
}

// Random specs; each goes round all formats that hold it and comes back as it was.
TEST_F(Formats, CodesGoRoundEveryFormatThatHoldsThem) {
  Random random(3);
  size_t trips = 0;
  for (int round = 0; round < 12; ++round) {
    const int bits[] = {2, 3, 4, 4, 4, 8};
    const size_t groups[] = {16, 32, QuantSpec::kWholeRow};
    request_.change = {
        .bits = bits[random.next() % 6], .group = groups[random.next() % 3], .symmetric = random.next() % 2 == 0};
    const std::string what =
        cat(*request_.change.bits, " ", *request_.change.group, " ", *request_.change.symmetric, " ");
    const auto first = quantize(cat("first", round), "gptq");
    const Source* last = first.get();
    std::vector<std::unique_ptr<Source>> chain;
    for (const char* name : {"hf", "awq", "gptq:v2", "hf", "gptq"}) {
      const auto next =
          error_text([&] { chain.push_back(convert(*last, cat("trip", round, "-", chain.size()), name)); });
      if (!next.empty()) {
        EXPECT_THAT(next, HasSubstr("--allow-requantize")) << what << name;
        continue;
      }
      ++trips;
      last = chain.back().get();
      expect_same_codes(*first, *last, what + name + " ");
    }
  }
  EXPECT_GE(trips, 48u);
}

TEST_F(Formats, AllZeroRowsAndGroupsSurvive) {
  TinyModel model;
  model.edit = [](const std::string& name, std::vector<float>& values) {
    if (!name.ends_with("up_proj.weight")) return;
    std::fill_n(values.begin(), 64, 0.0f);
    std::fill_n(values.begin() + 128 + 32, 32, 0.0f);
  };
  model.write(folder_ / "zeros");
  source_ = Source::open(folder_ / "zeros");
  const std::vector<float> want = values(source_->get("model.layers.0.mlp.up_proj.weight"));
  const auto check = [&](const char* format, const std::string& what) {
    const auto written = quantize("out", format);
    const std::vector<float> got = values(written->get("model.layers.0.mlp.up_proj.weight"));
    for (size_t i = 0; i < got.size(); ++i) {
      if (want[i] == 0) {
        EXPECT_EQ(got[i], 0) << what << " " << i;
      }
      EXPECT_NEAR(got[i], want[i], 0.5) << what << " " << i;
    }
  };
  for (const int bits : {2, 3, 4, 8})
    for (const bool symmetric : {true, false}) {
      request_.change = {.bits = bits, .group = 32, .symmetric = symmetric};
      for (const char* format : {"hf", "gptq", "gptq:v1", "awq"})
        if ((format != std::string_view("awq") || bits == 4) &&
            (format != std::string_view("gptq:v1") || symmetric || bits == 4 || bits == 8))
          check(format, cat(format, " ", bits, symmetric ? " symmetric" : ""));
    }
  for (const Grid grid : {Grid::kNF4, Grid::kFP4}) {
    request_.change = {.bits = 4, .group = 32, .symmetric = true, .grid = grid};
    check("hf", cat(name(grid)));
  }
  request_.change = {.bits = 8, .group = QuantSpec::kWholeRow, .symmetric = true, .grid = Grid::kFP8};
  check("hf", "fp8");
}

TEST_F(Formats, MixedModelsSayWhatIsDifferent) {
  request_.change = {.bits = 4, .group = 32};
  request_.rules = {parse_rule(".*down_proj:bits=8,group=16,asym")};
  request_.skip = {"model\\.layers\\.1\\.self_attn\\.q_proj"};
  const auto written = quantize("mixed", "gptq");
  EXPECT_FALSE(written->get("model.layers.1.self_attn.q_proj.weight").spec());
  EXPECT_EQ(written->get("model.layers.0.mlp.down_proj.weight").spec()->bits, 8);
  EXPECT_EQ(written->get("model.layers.0.mlp.down_proj.weight").spec()->group, 16u);
  const Json config = read_json_file(folder_ / "mixed/config.json")["quantization_config"];
  EXPECT_EQ(config["dynamic"].size(), 3u);
  EXPECT_TRUE(config["dynamic"].contains("-:^model\\.layers\\.1\\.self_attn\\.q_proj$"));
  EXPECT_EQ(read_json_file(folder_ / "mixed/quantize_config.json"), config);

  request_.rules = {parse_rule(".*down_proj:group=16")};
  EXPECT_THAT(error_text([&] { quantize("awq", "awq"); }),
              testing::AllOf(HasSubstr("AWQ has one group size"), HasSubstr("try a --group-size")));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "awq"));
  request_.rules.clear();
  quantize("awq", "awq");
  EXPECT_EQ(read_json_file(folder_ / "awq/config.json")["quantization_config"]["modules_to_not_convert"],
            Json({"model.layers.1.self_attn.q_proj"}));
}

TEST_F(Formats, OlderFoldersKeepTheConfigurationInAFileOfItsOwn) {
  request_.change = {.bits = 4, .group = 32};
  const auto written = quantize("out", "gptq");
  Json config = read_json_file(folder_ / "out/config.json");
  const std::string quantization = config["quantization_config"].dump();
  config.erase("quantization_config");
  write_text_file(folder_ / "out/config.json", config.dump());
  expect_same_codes(*written, *Source::open(folder_ / "out"), "");
  EXPECT_THAT(Source::open(folder_ / "out")->side_files(), testing::Not(Contains("quantize_config.json")));
  for (size_t n = 0; n < quantization.size(); ++n) {
    write_text_file(folder_ / "out/quantize_config.json", quantization.substr(0, n));
    EXPECT_THAT(error_text([&] { Source::open(folder_ / "out"); }), HasSubstr("quantize_config.json")) << n;
  }
}

TEST_F(Formats, WhatAFormatCannotHoldIsRoundedAnewOnlyWhenAllowed) {
  request_.change = {.grid = Grid::kNF4};
  request_.embedding = parse_table("8");
  const auto written = quantize("nf4", "hf");
  EXPECT_THAT(error_text([&] { convert(*written, "no", "gptq"); }),
              testing::AllOf(HasSubstr("model.embed_tokens.weight"), HasSubstr("--allow-requantize")));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "no"));
  const auto converted = convert(*written, "yes", "gptq", true);
  EXPECT_THAT(warnings_, Contains(HasSubstr("14 tensors are in a form that gptq cannot hold")));
  EXPECT_FALSE(converted->get("model.embed_tokens.weight").spec());
  EXPECT_EQ(values(converted->get("model.embed_tokens.weight")), values(written->get("model.embed_tokens.weight")));
  const StoredTensor& up = converted->get("model.layers.0.mlp.up_proj.weight");
  EXPECT_EQ(up.spec()->bits, 4);
  const std::vector<float> got = values(up), want = values(written->get(up.name()));
  double error = 0, signal = 0;
  for (size_t i = 0; i < got.size(); ++i) error += (got[i] - want[i]) * (got[i] - want[i]), signal += want[i] * want[i];
  EXPECT_LT(error, 0.02 * signal);
  EXPECT_GT(error, 0);
}

TEST_F(Formats, ACacheSchemeIsNoted) {
  request_.change = {.bits = 4, .group = 32};
  quantize("kv", "hf");
  EXPECT_TRUE(Source::open(folder_ / "kv")->notes().empty());
  Json config = read_json_file(folder_ / "kv/config.json");
  config["quantization_config"]["kv_cache_scheme"] = {{"num_bits", 8}, {"type", "float"}};
  write_text_file(folder_ / "kv/config.json", config.dump());
  EXPECT_THAT(Source::open(folder_ / "kv")->notes(), Contains(HasSubstr("--kv-cache")));
}

}  // namespace
}  // namespace nibble
