#include "pipeline/calibrated_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/random.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "core/threads.h"
#include "model/block_sequence.h"
#include "model/model.h"
#include "pipeline/on_the_fly.h"
#include "pipeline/quantize.h"
#include "pipeline/tiny_model.h"

namespace nibble {
namespace {

std::vector<std::vector<TokenId>> random_documents(size_t count, size_t length, uint64_t seed) {
  Random random(seed);
  std::vector<std::vector<TokenId>> documents(count);
  for (size_t d = 0; d < count; ++d)
    for (size_t t = 0; t < length - d; ++t) documents[d].push_back(static_cast<TokenId>(random.next() % 128));
  return documents;
}

std::vector<float> logits_of(const Source& source, const std::vector<TokenId>& tokens,
                             const LoadOptions& options = {}) {
  const auto model = Model::load(source, options);
  std::vector<float> logits(tokens.size() * model->config().vocab_size);
  const auto cache = model->make_cache(tokens.size(), CacheType::kF32);
  model->forward(tokens, *cache, matrix(logits.data(), tokens.size(), model->config().vocab_size));
  return logits;
}

TEST(BlockSequence, ComputesWhatTheModelComputes) {
  const TestFolder folder;
  TinyModel{}.write(folder / "m");
  const auto source = Source::open(folder / "m");
  const auto blocks = open_blocks(*source, false);
  ASSERT_EQ(blocks->blocks(), 3U);  // two and the head
  for (const auto& tokens : random_documents(2, 20, 1)) {
    const size_t count = tokens.size();
    std::vector<float> hidden(count * 64), x(count * 96), next(count * 96);
    const auto rows = matrix(hidden.data(), count, 64);
    blocks->embed(tokens, rows);
    for (size_t b = 0; b < blocks->blocks(); ++b) {
      const auto block = blocks->load(b);
      const auto& stages = block->stages();
      block->begin(rows, matrix(x.data(), count, stages[0].cols));
      for (size_t s = 0; b < 2 && s < stages.size(); ++s) {
        block->advance(s, matrix<const float>(x.data(), count, stages[s].cols), rows,
                       matrix(next.data(), count, s + 1 < stages.size() ? stages[s + 1].cols : 0));
        std::swap(x, next);
      }
    }
    const StoredTensor& head = source->get("lm_head.weight");
    std::vector<float> weights(head.rows() * head.cols());
    head.read_rows(0, head.rows(), weights.data());
    const std::vector<float> want = logits_of(*source, tokens);
    for (size_t t = 0; t < count; ++t)
      for (size_t v = 0; v < head.rows(); ++v) {
        double got = 0;
        for (size_t c = 0; c < 64; ++c)
          got += static_cast<double>(x[t * 64 + c]) * static_cast<double>(weights[v * 64 + c]);
        ASSERT_NEAR(got, want[t * head.rows() + v], 1e-5) << "token " << t;
      }
  }
}

class CalibratedRun : public testing::Test {
 protected:
  CalibratedRun() {
    TinyModel tiny;
    tiny.hidden = 64;
    tiny.intermediate = 128;
    tiny.write(folder_ / "m");
    source_ = Source::open(folder_ / "m");
    std::string ids;
    for (const auto& document : random_documents(4, 40, 3)) {
      ids += "[";
      for (const TokenId id : document) ids += std::to_string(id) + ",";
      ids.back() = ']';
      ids += "\n";
    }
    write_text_file(folder_ / "ids.jsonl", ids);
    request_.change.bits = 4;
    request_.change.group = 32;
    request_.calibration.from = (folder_ / "ids.jsonl").string();
    request_.bf16 = false;
  }

  QuantizeResult run(const std::string& out, const std::string& algorithm, RunOptions options = {},
                     Progress& progress = no_progress()) {
    request_.algorithm = algorithm;
    const auto formats = parse_formats("hf");
    const QuantizePlan plan = make_plan(*source_, request_, formats.front());
    return run_plan(*source_, plan, formats, folder_ / out, options, progress);
  }

  std::string bytes(const std::string& out) const { return read_text_file(folder_ / out / "model.safetensors"); }

  TestFolder folder_;
  std::unique_ptr<Source> source_;
  QuantizeRequest request_;
};

// Stops a run the moment that block `block` is at work.
class StopAt final : public Progress {
 public:
  explicit StopAt(std::string note) : note_(std::move(note)) {}
  void update(size_t, size_t, std::string_view note) override {
    if (note.starts_with(note_)) throw Error(ErrorKind::kInterrupted, "stopped");
  }

 private:
  std::string note_;
};

double mean_error(const QuantizeResult& result) {
  double sum = 0;
  for (const LayerReport& layer : result.layers) sum += layer.output_error;
  return sum / static_cast<double>(result.layers.size());
}

TEST_F(CalibratedRun, GptqBeatsSearchOnTheOutputs) {
  const QuantizeResult gptq = run("gptq", "gptq"), search = run("search", "search");
  EXPECT_EQ(gptq.layers.size(), 14U);
  EXPECT_LT(mean_error(gptq), mean_error(search));
  for (const LayerReport& layer : gptq.layers) {
    EXPECT_GT(layer.output_error, 0) << layer.name;
    EXPECT_GT(layer.percdamp, 0) << layer.name;
  }
  EXPECT_EQ(gptq.calibration->documents.size(), 4U);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "gptq.partial"));
}

TEST_F(CalibratedRun, DoesNotDependOnThreadsOrMemory) {
  set_thread_count(1);
  run("one", "gptq");
  set_thread_count(3);
  request_.memory = 0;
  run("three", "gptq");
  set_thread_count(0);
  EXPECT_EQ(bytes("one"), bytes("three"));
}

TEST_F(CalibratedRun, DoesNotDependOnHowManyRowsAThreadTakes) {
  TinyModel wide;
  wide.intermediate = 288;  // with one thread slices of 64 rows, with three of 32
  wide.layers = 1;
  wide.write(folder_ / "wide");
  source_ = Source::open(folder_ / "wide");
  for (const std::string algorithm : {"search", "gptq"}) {
    set_thread_count(1);
    const QuantizeResult one = run("one-" + algorithm, algorithm);
    set_thread_count(3);
    const QuantizeResult three = run("three-" + algorithm, algorithm);
    set_thread_count(0);
    EXPECT_EQ(bytes("one-" + algorithm), bytes("three-" + algorithm)) << algorithm;
    ASSERT_EQ(one.layers.size(), three.layers.size());
    for (size_t i = 0; i < one.layers.size(); ++i)
      EXPECT_EQ(one.layers[i].output_error, three.layers[i].output_error) << algorithm << " " << one.layers[i].name;
  }
}

TEST_F(CalibratedRun, ResumesBehindTheLastFinishedBlock) {
  run("whole", "gptq");
  StopAt stop("block 2/2");
  EXPECT_EQ(error_kind([&] { run("out", "gptq", {}, stop); }), ErrorKind::kInterrupted);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "out.partial" / "block-0"));
  // Other options are not what was begun.
  request_.change.bits = 3;
  EXPECT_THAT(error_text([&] { run("out", "gptq", {.resume = true}); }), testing::HasSubstr("other options"));
  request_.change.bits = 4;
  StopAt again("block 1/2");  // is not done again
  run("out", "gptq", {.resume = true}, again);
  EXPECT_EQ(bytes("out"), bytes("whole"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out.partial"));
  // Killed before there was anything to continue.
  run("new", "gptq", {.resume = true});
  EXPECT_EQ(bytes("new"), bytes("whole"));
}

TEST_F(CalibratedRun, WithoutResumeStartsAnew) {
  StopAt stop("block 2/2");
  EXPECT_EQ(error_kind([&] { run("out", "gptq", {}, stop); }), ErrorKind::kInterrupted);
  run("out", "gptq");
  run("whole", "gptq");
  EXPECT_EQ(bytes("out"), bytes("whole"));
}

TEST_F(CalibratedRun, OnTheFlyGivesTheSameWeights) {
  run("out", "gptq");
  const auto written = Source::open(folder_ / "out");
  const LoadOptions options = quantize_on_load(*source_, request_);
  const std::vector<TokenId> tokens = random_documents(1, 12, 9).front();
  EXPECT_EQ(logits_of(*source_, tokens, options), logits_of(*written, tokens));
}

// Equalizers move factors between tensors, and with 8 bits there is next to no rounding that could hide a wrong one.
TEST_F(CalibratedRun, FoldsKeepTheFunction) {
  request_.change.bits = 8;
  request_.change.symmetric = false;
  const std::vector<TokenId> tokens = random_documents(1, 12, 9).front();
  const std::vector<float> want = logits_of(*source_, tokens);
  double most = 0;
  for (const float x : want) most = std::max(most, std::abs(static_cast<double>(x)));
  for (const char* algorithm : {"awq", "smoothquant,gptq", "awq,gptq", "teq", "teq,gptq"}) {
    run(algorithm, algorithm);
    const auto written = Source::open(folder_ / algorithm);
    std::vector<float> before(64), after(64);
    source_->get("model.layers.1.input_layernorm.weight").read_rows(0, 1, before.data());
    written->get("model.layers.1.input_layernorm.weight").read_rows(0, 1, after.data());
    EXPECT_NE(before, after) << algorithm;
    const std::vector<float> got = logits_of(*written, tokens);
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 0.01 * most) << algorithm;
  }
}

TEST_F(CalibratedRun, CalibrationThatNothingLooksAtIsRefused) {
  EXPECT_THAT(error_text([&] { run("out", "rtn"); }), testing::HasSubstr("looks at activations"));
}

TEST_F(CalibratedRun, InputsMayComeFromFloatWeights) {
  run("sequential", "gptq");
  request_.true_sequential = false;
  run("float", "gptq");
  EXPECT_NE(bytes("sequential"), bytes("float"));
}

// True-sequential unless said otherwise, or linears get two bits.
TEST_F(CalibratedRun, FewBitsTakeTheirInputsFromFloatWeights) {
  for (const int bits : {3, 2}) {
    request_.change.bits = bits;
    const std::string usual = cat("usual", bits), same = cat("same", bits), other = cat("other", bits);
    request_.true_sequential = {};
    run(usual, "gptq");
    request_.true_sequential = bits > 2;
    run(same, "gptq");
    EXPECT_EQ(bytes(usual), bytes(same));
    request_.true_sequential = bits <= 2;
    run(other, "gptq");
    EXPECT_NE(bytes(usual), bytes(other));
  }
}

// Only the weights matter: no text, no sampling.
TEST_F(CalibratedRun, SinqNeedsNoTokens) {
  const std::vector<TokenId> tokens = random_documents(1, 12, 9).front();
  const std::vector<float> want = logits_of(*source_, tokens);
  request_.calibration = {};
  request_.change.bits = 8;
  for (const char* algorithm : {"sinq", "sinq,search", "sinq,hqq"}) {
    request_.change.symmetric = std::string_view(algorithm) != "sinq,hqq";
    const QuantizeResult result = run(algorithm, algorithm);
    EXPECT_TRUE(result.calibration->documents.empty());
    const auto written = Source::open(folder_ / algorithm);
    std::vector<float> before(64), after(64);
    source_->get("model.layers.1.input_layernorm.weight").read_rows(0, 1, before.data());
    written->get("model.layers.1.input_layernorm.weight").read_rows(0, 1, after.data());
    EXPECT_NE(before, after) << algorithm;
    double most = 0;
    for (const float x : want) most = std::max(most, std::abs(static_cast<double>(x)));
    const std::vector<float> got = logits_of(*written, tokens);
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 0.01 * most) << algorithm;
  }
  request_.calibration.samples = 4;
  EXPECT_THAT(error_text([&] { run("out", "sinq"); }), testing::HasSubstr("looks at activations"));
  request_.calibration.samples = 0;
  EXPECT_THAT(error_text([&] { run("out", "gptq"); }), testing::HasSubstr("--samples"));
}

// Of the first linears' inputs, which no quantized linear comes before.
std::pair<float, float> first_inputs(const Source& source, const std::vector<std::vector<TokenId>>& documents) {
  const auto blocks = open_blocks(source, false);
  const auto block = blocks->load(0);
  std::pair<float, float> range{0, 0};
  for (const auto& tokens : documents) {
    std::vector<float> hidden(tokens.size() * 64), x(hidden.size());
    blocks->embed(tokens, matrix(hidden.data(), tokens.size(), 64));
    block->begin(matrix(hidden.data(), tokens.size(), 64), matrix(x.data(), tokens.size(), 64));
    const auto [low, high] = std::minmax_element(x.begin(), x.end());
    range = {std::min(range.first, *low), std::max(range.second, *high)};
  }
  return range;
}

TEST_F(CalibratedRun, StaticInputsGetTheRangesThatWereSeen) {
  request_.scheme = "W8A8-static";
  request_.change = {};
  run("out", "rtn");
  const auto written = Source::open(folder_ / "out");
  const auto [low, high] = first_inputs(*source_, random_documents(4, 40, 3));
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    const ActivationSpec inputs = written->get(cat("model.layers.0.self_attn.", name, ".weight")).activations();
    EXPECT_EQ(inputs.mode, ActivationSpec::Mode::kStatic);
    EXPECT_FLOAT_EQ(inputs.scale, std::max(-low, high) / 127);
  }
  // The function survives: 8 bits are many for random weights.
  const std::vector<TokenId> tokens = random_documents(4, 40, 3).front();
  const std::vector<float> want = logits_of(*source_, tokens), got = logits_of(*written, tokens);
  double most = 0, worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(want[i])));
    worst = std::max(worst, std::abs(static_cast<double>(want[i] - got[i])));
  }
  EXPECT_LT(worst, 0.05 * most);
  EXPECT_EQ(logits_of(*source_, tokens, quantize_on_load(*source_, request_)), got);
  // Ranges of finished blocks survive a stop.
  StopAt stop("block 2/2");
  EXPECT_EQ(error_kind([&] { run("resumed", "rtn", {}, stop); }), ErrorKind::kInterrupted);
  request_.observer = ObserverOptions{.kind = ObserverOptions::Kind::kEntropy};
  EXPECT_THAT(error_text([&] { run("resumed", "rtn", {.resume = true}); }), testing::HasSubstr("other options"));
  request_.observer.reset();
  run("resumed", "rtn", {.resume = true});
  EXPECT_EQ(bytes("resumed"), bytes("out"));
}

TEST_F(CalibratedRun, ObserversCutOutliers) {
  request_.scheme = "W8A8-static";
  request_.change = {};
  const auto scale = [&](const char* out, const char* observer) {
    request_.observer = parse_observer(observer);
    run(out, "rtn");
    return Source::open(folder_ / out)->get("model.layers.1.mlp.down_proj.weight").activations().scale;
  };
  const float all = scale("all", "minmax"), most = scale("most", "percentile:99");
  EXPECT_LT(most, 0.9f * all);
  EXPECT_GT(most, 0);
  EXPECT_LE(scale("entropy", "entropy"), all * 1.0001f);
  request_.scheme = "W8A8";
  EXPECT_THAT(error_text([&] { run("no", "rtn"); }), testing::HasSubstr("add --act static"));
}

TEST_F(CalibratedRun, ActivationsAreAskedForByFlagsAndRules) {
  request_.change.bits = 8;
  request_.change.group = QuantSpec::kWholeRow;
  request_.change.act = ActivationSpec::Mode::kStatic;
  request_.rules = {parse_rule(".*down_proj:act=none"), parse_rule(".*o_proj:act=dynamic")};
  run("out", "smoothquant,rtn");
  const auto written = Source::open(folder_ / "out");
  const auto mode = [&](const char* name) {
    return written->get(cat("model.layers.0.", name, ".weight")).activations().mode;
  };
  EXPECT_EQ(mode("mlp.up_proj"), ActivationSpec::Mode::kStatic);
  EXPECT_EQ(mode("mlp.down_proj"), ActivationSpec::Mode::kNone);
  EXPECT_EQ(mode("self_attn.o_proj"), ActivationSpec::Mode::kDynamicPerToken);
  request_.change.act.reset();
  request_.rules.clear();
  request_.change.act_bits = 6;
  EXPECT_THAT(error_text([&] { run("no", "gptq"); }), testing::HasSubstr("--act dynamic"));
}

// GPTAQ's term: the float model's documents run beside the others.
TEST_F(CalibratedRun, FloatInputsRunBesideTheOthers) {
  request_.change.bits = 3;
  run("plain", "gptq");
  request_.settings["gptq"]["alpha"] = 1;
  request_.memory = 0;
  run("both", "gptq");
  EXPECT_NE(bytes("both"), bytes("plain"));
  StopAt stop("block 2/2");
  EXPECT_EQ(error_kind([&] { run("out", "gptq", {}, stop); }), ErrorKind::kInterrupted);
  request_.memory = {};
  run("out", "gptq", {.resume = true});
  EXPECT_EQ(bytes("out"), bytes("both"));
  run("folded", "awq,gptq");
  request_.change.bits = 2;
  EXPECT_TRUE(make_plan(*source_, request_, parse_formats("hf").front()).stream.true_sequential);
  request_.true_sequential = false;
  EXPECT_THAT(error_text([&] { run("no", "gptq"); }), testing::HasSubstr("--no-true-sequential"));
}

}  // namespace
}  // namespace nibble
