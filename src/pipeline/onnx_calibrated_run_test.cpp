#include "pipeline/onnx_calibrated_run.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "algo/equalize.h"
#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "formats/onnx_test_model.h"
#include "formats/zip.h"
#include "model/onnx_runtime.h"
#include "model/onnx_source.h"
#include "pipeline/onnx_feeds.h"
#include "pipeline/onnx_plan.h"
#include "pipeline/quantize.h"
#include "quant/input_collector.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Values = std::vector<float>;

constexpr size_t kWidth = 16, kTokens = 24, kSamples = 3;

// Computes MatMul and Relu of floats, as ONNX defines them.
class FakeSession final : public OnnxSession {
 public:
  FakeSession(onnx::ModelProto model, size_t* runs) : model_(std::move(model)), runs_(runs) {}

  std::vector<OnnxTensor> run(const std::vector<std::pair<std::string, OnnxTensor>>& inputs,
                              const std::vector<std::string>& outputs) override {
    ++*runs_;
    std::map<std::string, OnnxTensor> values(inputs.begin(), inputs.end());
    for (const auto& initializer : model_.graph().initializer())
      values[initializer.name()] = {
          1, {kWidth, kWidth}, std::as_bytes(std::span(initializer.raw_data())), nullptr, false};
    for (const onnx::NodeProto& node : model_.graph().node()) {
      const OnnxTensor& x = values.at(node.input(0));
      const auto made = std::make_shared<Values>(floats(x));
      if (node.op_type() == "Relu") {
        for (float& value : *made) value = std::max(value, 0.0f);
      } else {
        *made = product(*made, floats(values.at(node.input(1))));
      }
      values[node.output(0)] = {1, x.shape, std::as_bytes(std::span(*made)), made, false};
    }
    std::vector<OnnxTensor> result;
    for (const std::string& name : outputs) result.push_back(values.at(name));
    return result;
  }

  static Values floats(const OnnxTensor& tensor) {
    Values values(tensor.bytes.size() / sizeof(float));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  }
  // [tokens, kWidth] x [kWidth, kWidth]
  static Values product(const Values& x, const Values& w) {
    Values out(x.size());
    for (size_t t = 0; t < x.size() / kWidth; ++t)
      for (size_t c = 0; c < kWidth; ++c)
        for (size_t k = 0; k < kWidth; ++k) out[t * kWidth + c] += x[t * kWidth + k] * w[k * kWidth + c];
    return out;
  }

 private:
  onnx::ModelProto model_;
  size_t* runs_;
};

class FakeRuntime final : public OnnxRuntime {
 public:
  const std::string& version() const override { return version_; }
  const std::filesystem::path& path() const override { return path_; }
  std::unique_ptr<OnnxSession> load(const std::string& model) const override {
    onnx::ModelProto proto;
    EXPECT_TRUE(proto.ParseFromString(model));
    return std::make_unique<FakeSession>(proto, &runs);
  }
  mutable size_t runs = 0;

 private:
  std::string version_ = "0";
  std::filesystem::path path_;
};

Values random_values(size_t count, uint64_t seed) {
  Random random(seed);
  Values values(count);
  for (float& value : values) value = static_cast<float>(random.uniform() - random.uniform());
  return values;
}

std::string npy(const std::string& descr, const std::string& shape, const void* data, size_t bytes) {
  std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }\n";
  return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(header.size()) + '\0' + header +
         std::string(static_cast<const char*>(data), bytes);
}

void write_npz(const std::filesystem::path& path, const std::vector<std::pair<std::string, std::string>>& arrays) {
  std::vector<ZipSlot> slots;
  for (const auto& [name, file] : arrays) slots.push_back({name + ".npy", file.size()});
  ZipWriter writer(path, slots);
  for (size_t i = 0; i < arrays.size(); ++i) writer.write(i, 0, bytes_of(arrays[i].second));
  writer.finish();
}

// x -> first -> Relu -> second -> Relu -> third, where `shared` says that third has the weight of second.
struct Sample {
  TemporaryFolder folder;
  Values x = random_values(kSamples * kTokens * kWidth, 1), first = random_values(kWidth * kWidth, 2),
         second = random_values(kWidth * kWidth, 3), third = random_values(kWidth * kWidth, 4);
  std::unique_ptr<Source> source;

  explicit Sample(bool shared = false, bool masked = false) {
    onnx::ModelProto model = empty_onnx();
    const auto add_input = [&](const char* name, int type) {
      onnx::ValueInfoProto& input = *model.mutable_graph()->add_input();
      input.set_name(name);
      input.mutable_type()->mutable_tensor_type()->set_elem_type(type);
      input.mutable_type()->mutable_tensor_type()->mutable_shape()->add_dim()->set_dim_param("Batch size");
    };
    add_input("x", 1);
    if (masked) add_input("attention_mask", 7);
    for (const auto& [name, values] : {std::pair("w1", &first), std::pair("w2", &second), std::pair("w3", &third)})
      add_floats(model, name, {kWidth, kWidth}, *values);
    add_node(model, "MatMul", "first", {"x", "w1"}, {"a"});
    add_node(model, "Relu", "relu", {"a"}, {"b"});
    add_node(model, "MatMul", "second", {"b", "w2"}, {"c"});
    add_node(model, "Relu", "relu2", {"c"}, {"d"});
    add_node(model, "MatMul", "third", {"d", shared ? "w2" : "w3"}, {"e"});
    model.mutable_graph()->add_output()->set_name("e");
    write_text_file(folder.path() / "model.onnx", model.SerializeAsString());
    source = open_onnx_graph(folder.path() / "model.onnx");
    write_npz(folder.path() / "x.npz", {{"x", npy("<f4", "(3, 24, 16)", x.data(), x.size() * sizeof(float))}});
  }

  QuantizeRequest request() const {
    QuantizeRequest request;
    request.change.bits = 3;
    request.change.group = 16;
    request.algorithm = "gptq";
    request.calibration.from = (folder.path() / "x.npz").string();
    request.bf16 = false;
    return request;
  }
  CalibratedGraph run(const QuantizeRequest& asked, const std::shared_ptr<FakeRuntime>& runtime) const {
    const QuantizePlan plan = make_plan(*source, asked, &find_exporter("onnx"));
    EXPECT_TRUE(plan.onnx_runtime);
    return quantize_graph(*source, plan, runtime, folder.path(), no_progress());
  }
};

Values relu(Values values) {
  for (float& value : values) value = std::max(value, 0.0f);
  return values;
}

Values transposed(const Values& w) {
  Values out(w.size());
  for (size_t r = 0; r < kWidth; ++r)
    for (size_t c = 0; c < kWidth; ++c) out[c * kWidth + r] = w[r * kWidth + c];
  return out;
}

// The weight [outputs, inputs] as gptq rounds it for these inputs, dequantized.
Values rounded(const Values& weight, const std::vector<Values>& inputs, const QuantSpec& spec) {
  InputCollector collector(kWidth, true, false);
  for (const Values& x : inputs) {
    const size_t tokens = x.size() / kWidth / kSamples;
    for (size_t s = 0; s < kSamples; ++s)
      collector.add(matrix<const float>(x.data() + s * tokens * kWidth, tokens, kWidth));
  }
  const AlgorithmChain chain("gptq", {});
  const InputFactor factor = factor_inputs(collector.finish(), chain.factor_options(spec));
  const Values rows = transposed(weight);
  Values out(rows.size());
  dequantize(chain.quantize({matrix<const float>(rows.data(), kWidth, kWidth), spec, {}, &factor}),
             matrix(out.data(), kWidth, kWidth));
  return out;
}

Values values_of(const CalibratedGraph& graph, const std::string& name) {
  const PackedMatrix& packed = graph.tensors.weights.at(name);
  Values values(kWidth * kWidth);
  for (size_t r = 0; r < kWidth; ++r) packed.load_row(r, 0, kWidth, &values[r * kWidth]);
  return values;
}

TEST(OnnxCalibratedRun, LaterProductsSeeWhatEarlierOnesBecame) {
  const Sample sample;
  const auto runtime = std::make_shared<FakeRuntime>();
  const CalibratedGraph graph = sample.run(sample.request(), runtime);
  EXPECT_EQ(graph.data.samples, kSamples);
  EXPECT_EQ(runtime->runs, 2 * kSamples);  // x is there at once, and the last product needs not run
  const QuantSpec& spec = graph.tensors.weights.at("first").spec;
  const Values w1 = rounded(sample.first, {sample.x}, spec);
  EXPECT_EQ(values_of(graph, "first"), w1);
  const Values b = relu(FakeSession::product(sample.x, transposed(w1)));
  const Values w2 = rounded(sample.second, {b}, spec);
  EXPECT_EQ(values_of(graph, "second"), w2);
  const Values d = relu(FakeSession::product(b, transposed(w2)));
  EXPECT_EQ(values_of(graph, "third"), rounded(sample.third, {d}, spec));
  EXPECT_GT(graph.tensors.measures.at("third").output_signal, 0);
}

TEST(OnnxCalibratedRun, WithoutTrueSequentialInputsAreThoseOfTheFloatGraph) {
  const Sample sample;
  QuantizeRequest request = sample.request();
  request.true_sequential = false;
  const CalibratedGraph graph = sample.run(request, std::make_shared<FakeRuntime>());
  const QuantSpec& spec = graph.tensors.weights.at("first").spec;
  const Values b = relu(FakeSession::product(sample.x, sample.first));
  EXPECT_EQ(values_of(graph, "second"), rounded(sample.second, {b}, spec));
}

TEST(OnnxCalibratedRun, StaticInputsHaveTheRangeThatWasSeen) {
  const Sample sample;
  QuantizeRequest request = sample.request();
  request.algorithm = "rtn";
  request.change = {};
  request.scheme = "W8A8-static";
  const CalibratedGraph graph = sample.run(request, std::make_shared<FakeRuntime>());
  const auto [low, high] = std::minmax_element(sample.x.begin(), sample.x.end());
  const ActivationSpec first = graph.tensors.inputs.at("first");
  EXPECT_EQ(first.mode, ActivationSpec::Mode::kStatic);
  EXPECT_FALSE(first.symmetric);
  EXPECT_NEAR(first.scale, (*high - *low) / 255, 1e-6);
  EXPECT_EQ(first.zero, std::lrint(-*low / first.scale));
  // The later ones behind Relu of what the rounded product gives.
  const Values b = relu(FakeSession::product(sample.x, transposed(values_of(graph, "first"))));
  const ActivationSpec second = graph.tensors.inputs.at("second");
  EXPECT_NEAR(second.scale, *std::max_element(b.begin(), b.end()) / 255, 1e-6);
  EXPECT_EQ(second.zero, 0);
}

// The range of a value's columns times the factors that go before a product.
std::pair<float, float> scaled_range(const Values& x, const Values& factors) {
  float low = 0, high = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    low = std::min(low, x[i] * factors[i % kWidth]);
    high = std::max(high, x[i] * factors[i % kWidth]);
  }
  return {low, high};
}

// The weight [outputs, inputs] for inputs without factors.
Values unscaled(Values weight, const Values& factors) {
  for (size_t i = 0; i < weight.size(); ++i) weight[i] *= factors[i % kWidth];
  return weight;
}

TEST(OnnxCalibratedRun, SmoothQuantScalesInputsBeforeTheirRangesAreTaken) {
  const Sample sample;
  QuantizeRequest request = sample.request();
  request.algorithm = "smoothquant,rtn";
  request.settings["smoothquant"]["alpha"] = 0.6;
  request.change = {};
  request.scheme = "W8A8-static";
  const CalibratedGraph graph = sample.run(request, std::make_shared<FakeRuntime>());
  const Values& first = graph.tensors.input_factors.at("first");
  for (size_t c = 0; c < kWidth; ++c) {
    double x = 0, w = 0;
    for (size_t i = c; i < sample.x.size(); i += kWidth) x = std::max(x, std::abs(double{sample.x[i]}));
    for (size_t r = 0; r < kWidth; ++r) w = std::max(w, std::abs(double{sample.first[c * kWidth + r]}));
    EXPECT_NEAR(first[c], std::pow(w, 0.4) / std::pow(x, 0.6), 1e-5 * double{first[c]});
  }
  // A rounded weight is near the original once its columns are scaled back, and what it makes is what comes next.
  const Values w1 = unscaled(values_of(graph, "first"), first), wanted = transposed(sample.first);
  for (size_t i = 0; i < w1.size(); ++i) EXPECT_NEAR(w1[i], wanted[i], 0.02);
  const auto check = [&](const char* name, const Values& inputs) {
    const auto [low, high] = scaled_range(inputs, graph.tensors.input_factors.at(name));
    EXPECT_NEAR(graph.tensors.inputs.at(name).scale, (high - low) / 255, 1e-6) << name;
  };
  check("first", sample.x);
  const Values b = relu(FakeSession::product(sample.x, transposed(w1)));
  check("second", b);
  const Values w2 = unscaled(values_of(graph, "second"), graph.tensors.input_factors.at("second"));
  check("third", relu(FakeSession::product(b, transposed(w2))));  // nobody reads it in the run: it is kept for this
}

TEST(OnnxCalibratedRun, StaticSchemesSmoothUnlessAnAlgorithmIsNamed) {
  const Sample sample;
  QuantizeRequest request = sample.request();
  request.change = {};
  request.scheme = "W8A8-static";
  const auto algorithm = [&] {
    return make_plan(*sample.source, request, &find_exporter("onnx")).tensors.front().algorithm;
  };
  EXPECT_EQ(algorithm(), "gptq");
  request.algorithm.reset();
  EXPECT_EQ(algorithm(), "smoothquant,rtn");
  request.scheme = "W8A8";
  request.calibration = {};
  EXPECT_EQ(algorithm(), "rtn");
}

TEST(OnnxCalibratedRun, AwqLosesLessOfTheOutputsThanRoundingAlone) {
  const Sample sample;
  QuantizeRequest request = sample.request();
  const auto error = [&](const char* algorithm) {
    request.algorithm = algorithm;
    const CalibratedGraph graph = sample.run(request, std::make_shared<FakeRuntime>());
    const LayerMeasure& measure = graph.tensors.measures.at("first");
    EXPECT_GT(measure.output_signal, 0) << algorithm;
    return measure.output_error / measure.output_signal;
  };
  const double gptq = error("gptq"), both = error("awq,gptq");
  EXPECT_LT(both, 1.02 * gptq);
  EXPECT_NE(both, gptq);
}

TEST(OnnxCalibratedRun, TeqLosesLessOfTheOutputsThanRoundingAlone) {
  const Sample sample;
  InputCollector collector(kWidth, true, false);
  collector.add(matrix<const float>(sample.x.data(), kSamples * kTokens, kWidth));
  const InputStats stats = collector.finish();
  const InputFactor factor = factor_inputs(InputStats(stats), {});
  const Values weight = transposed(sample.first);
  const MatrixView<const float> view = matrix<const float>(weight.data(), kWidth, kWidth);
  const QuantSpec spec{.bits = 3, .group = 16};
  const EqualizerInput input{{&view, 1}, {&spec, 1}, stats, &factor};
  QuantizeRequest request = sample.request();
  request.settings["teq"]["lr"] = 0.05;
  const auto error = [&](const char* algorithm) {
    request.algorithm = algorithm;
    const CalibratedGraph graph = sample.run(request, std::make_shared<FakeRuntime>());
    const Values& factors = graph.tensors.input_factors.at("first");
    EXPECT_NE(factors, Values(kWidth, 1.0f)) << algorithm;
    Values difference = unscaled(values_of(graph, "first"), factors);
    for (size_t i = 0; i < difference.size(); ++i) difference[i] -= weight[i];
    return input_error(input, matrix<const float>(difference.data(), kWidth, kWidth));
  };
  const double plain = weight_error(input, *make_algorithm("rtn", {}), kWidth, Values(kWidth, 1.0f));
  const double teq = error("teq");
  EXPECT_LT(teq, 0.95 * plain);
  EXPECT_LT(error("teq,gptq"), teq);
  EXPECT_LT(error("awq,teq"), plain);
}

TEST(OnnxCalibratedRun, WeightsOfSeveralValuesAreNotScaled) {
  const Sample sample(/*shared=*/true);
  QuantizeRequest request = sample.request();
  request.algorithm = "smoothquant,gptq";
  const CalibratedGraph graph = sample.run(request, std::make_shared<FakeRuntime>());
  EXPECT_FALSE(graph.tensors.input_factors.contains("second"));
  EXPECT_THAT(graph.tensors.measures.at("second").fallback, HasSubstr("several values"));
  EXPECT_TRUE(graph.tensors.input_factors.contains("first"));
}

TEST(OnnxCalibratedRun, ColumnsAreScaledByWhatWeightsShowWithoutData) {
  const Sample sample;
  QuantizeRequest request = sample.request();
  request.algorithm = "sinq";
  request.calibration.from.reset();
  const QuantizePlan plan = make_plan(*sample.source, request, &find_exporter("onnx"));
  const CalibratedGraph graph = quantize_graph(*sample.source, plan, sample.folder.path(), no_progress());
  const Values& factors = graph.tensors.input_factors.at("third");
  EXPECT_NE(factors, Values(kWidth, 1.0f));
  const Values got = unscaled(values_of(graph, "third"), factors), wanted = transposed(sample.third);
  double error = 0, signal = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(double{got[i]} - double{wanted[i]}, 2);
    signal += std::pow(double{wanted[i]}, 2);
  }
  EXPECT_LT(error, 0.05 * signal);  // three bits
}

TEST(OnnxCalibratedRun, SharedWeightsSeeTheInputsOfAllTheirProducts) {
  const Sample sample(/*shared=*/true);
  const auto runtime = std::make_shared<FakeRuntime>();
  const CalibratedGraph graph = sample.run(sample.request(), runtime);
  const QuantSpec& spec = graph.tensors.weights.at("first").spec;
  const Values b = relu(FakeSession::product(sample.x, sample.first));
  const Values d = relu(FakeSession::product(b, sample.second));
  EXPECT_EQ(values_of(graph, "second"), rounded(sample.second, {b, d}, spec));
  EXPECT_EQ(values_of(graph, "first"), rounded(sample.first, {sample.x}, spec));
  EXPECT_EQ(graph.tensors.weights.count("third"), 0u);
}

TEST(OnnxCalibratedRun, MemoryDoesNotChangeTheResult) {
  const Sample sample;
  QuantizeRequest request = sample.request();
  const CalibratedGraph graph = sample.run(request, std::make_shared<FakeRuntime>());
  request.memory = 0;
  EXPECT_EQ(values_of(sample.run(request, std::make_shared<FakeRuntime>()), "third"), values_of(graph, "third"));
}

TEST(OnnxCalibratedRun, SamplesAreTakenFromTheBatch) {
  const Sample sample;
  QuantizeRequest request = sample.request();
  request.calibration.samples = 1;
  const auto runtime = std::make_shared<FakeRuntime>();
  EXPECT_EQ(sample.run(request, runtime).data.samples, 1u);
  EXPECT_EQ(runtime->runs, 2u);
}

TEST(OnnxCalibratedRun, PaddingDoesNotCount) {
  Sample sample(/*shared=*/false, /*masked=*/true);
  std::vector<int64_t> mask(kSamples * kTokens, 1);
  Values seen;
  for (size_t t = 0; t < mask.size(); ++t) {
    if (t % kTokens >= kTokens / 2) mask[t] = 0;
    if (mask[t] != 0) seen.insert(seen.end(), &sample.x[t * kWidth], &sample.x[t * kWidth] + kWidth);
  }
  write_npz(sample.folder.path() / "x.npz",
            {{"x", npy("<f4", "(3, 24, 16)", sample.x.data(), sample.x.size() * sizeof(float))},
             {"attention_mask", npy("<i8", "(3, 24)", mask.data(), mask.size() * sizeof(int64_t))}});
  const CalibratedGraph graph = sample.run(sample.request(), std::make_shared<FakeRuntime>());
  const QuantSpec& spec = graph.tensors.weights.at("first").spec;
  EXPECT_EQ(values_of(graph, "first"), rounded(sample.first, {seen}, spec));
}

std::string plan_error(const Sample& sample, const QuantizeRequest& request) {
  try {
    make_plan(*sample.source, request, &find_exporter("onnx"));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(OnnxCalibratedRun, RequestsThatGraphsCannotMeetAreRefused) {
  const Sample sample;
  QuantizeRequest request = sample.request();
  request.calibration.from.reset();
  EXPECT_THAT(plan_error(sample, request), HasSubstr("makes no text to calibrate on; give --calib FILE.npz"));
  request.calibration.from = "text.txt";
  EXPECT_THAT(plan_error(sample, request), HasSubstr("the graph's input x cannot be made from text"));
  request = sample.request();
  request.algorithm = "rtn";
  EXPECT_THAT(plan_error(sample, request), HasSubstr("none of the algorithms used here looks at activations"));
  request.algorithm = "search";
  EXPECT_EQ(plan_error(sample, request), "");
  request.settings["gptq"]["alpha"] = 0.5;
  request.algorithm = "gptq";
  EXPECT_THAT(plan_error(sample, request), HasSubstr("gptq.alpha"));
}

std::string feed_error(const Sample& sample, const std::string& file) {
  try {
    CalibrationChoice choice;
    choice.from = (sample.folder.path() / file).string();
    load_onnx_feeds(dynamic_cast<const OnnxSource&>(*sample.source), choice, no_progress());
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(OnnxFeeds, ArraysMustBeTheGraphsInputs) {
  const Sample sample;
  const auto write = [&](const std::string& name, const std::string& descr, size_t bytes) {
    const std::string zeros(bytes, '\0');
    write_npz(sample.folder.path() / "bad.npz", {{name, npy(descr, "(2, 1)", zeros.data(), bytes)}});
  };
  EXPECT_EQ(feed_error(sample, "x.npz"), "");
  write("y", "<f4", 8);
  EXPECT_THAT(feed_error(sample, "bad.npz"), HasSubstr("bad.npz: holds the array 'y', but the graph's inputs are x"));
  write("x", "<i8", 16);
  EXPECT_THAT(feed_error(sample, "bad.npz"), HasSubstr("'x': holds INT64, the graph wants FLOAT"));
  write("x", "<f8", 16);
  EXPECT_EQ(feed_error(sample, "bad.npz"), "");
  write_npz(sample.folder.path() / "bad.npz", {});
  EXPECT_THAT(feed_error(sample, "bad.npz"), HasSubstr("has no array 'x'"));
  std::filesystem::create_directory(sample.folder.path() / "empty");
  EXPECT_THAT(feed_error(sample, "empty"), HasSubstr("holds no .npz files"));
}

// ids int64, mask int32: what text becomes, and how integers are converted.
TEST(OnnxFeeds, TokensBecomeWhatTheGraphReads) {
  const TemporaryFolder folder;
  onnx::ModelProto model = empty_onnx();
  for (const auto& [name, type] : {std::pair("input_ids", 7), std::pair("attention_mask", 6),
                                   std::pair("token_type_ids", 7), std::pair("position_ids", 7)}) {
    onnx::ValueInfoProto& input = *model.mutable_graph()->add_input();
    input.set_name(name);
    input.mutable_type()->mutable_tensor_type()->set_elem_type(type);
  }
  onnx::ValueInfoProto& past = *model.mutable_graph()->add_input();
  past.set_name("past_key_values.0.key");
  past.mutable_type()->mutable_tensor_type()->set_elem_type(1);
  for (const int64_t extent : {0, 3, 0, 64}) {
    auto& dim = *past.mutable_type()->mutable_tensor_type()->mutable_shape()->add_dim();
    if (extent > 0)
      dim.set_dim_value(extent);
    else
      dim.set_dim_param("open");
  }
  add_node(model, "Identity", "i", {"input_ids"}, {"out"});
  write_text_file(folder.path() / "model.onnx", model.SerializeAsString());
  write_text_file(folder.path() / "ids.jsonl", "{\"ids\": [5, 6, 7]}\n[8, 9]\n");
  const auto source = open_onnx_graph(folder.path() / "model.onnx");
  const auto& onnx = dynamic_cast<const OnnxSource&>(*source);
  CalibrationChoice choice;
  choice.from = (folder.path() / "ids.jsonl").string();
  const OnnxFeeds feeds = load_onnx_feeds(onnx, choice, no_progress());
  ASSERT_EQ(feeds.samples.size(), 2u);
  const auto read = [&](const std::string& name, auto zero) {
    const OnnxTensor& tensor = feeds.samples[0].at(name);
    std::vector<decltype(zero)> values(tensor.bytes.size() / sizeof zero);
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    EXPECT_THAT(tensor.shape, ElementsAre(1, 3));
    return values;
  };
  EXPECT_THAT(read("input_ids", int64_t{0}), ElementsAre(5, 6, 7));
  EXPECT_THAT(read("attention_mask", int32_t{0}), ElementsAre(1, 1, 1));
  EXPECT_THAT(read("token_type_ids", int64_t{0}), ElementsAre(0, 0, 0));
  EXPECT_THAT(read("position_ids", int64_t{0}), ElementsAre(0, 1, 2));
  EXPECT_THAT(feeds.samples[0].at("past_key_values.0.key").shape, ElementsAre(1, 3, 0, 64));
  write_text_file(folder.path() / "text.txt", "no tokenizer lies beside the model");
  choice.from = (folder.path() / "text.txt").string();
  try {
    load_onnx_feeds(onnx, choice, no_progress());
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::AllOf(HasSubstr("tokenizer"), HasSubstr("or give --calib FILE.npz")));
  }
}

}  // namespace
}  // namespace nibble
