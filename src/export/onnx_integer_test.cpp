#include <gmock/gmock.h>

#include "core/files.h"
#include "core/random.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "export/exporter.h"
#include "export/onnx_evaluator.h"
#include "formats/onnx_test_model.h"
#include "model/onnx_open.h"

namespace nibble {
namespace {

using testing::HasSubstr;
using Mode = ActivationSpec::Mode;

constexpr size_t kTokens = 3, kIn = 10, kOut = 6, kLast = 4;

std::vector<float> random_floats(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(2 * random.uniform() - 0.7);
  return values;
}

// x -> left, x -> right (two products of one input), right -> Gemm with a bias. A value is called as the exporter calls
// its own.
onnx::ModelProto graph() {
  onnx::ModelProto model = empty_onnx();
  model.mutable_graph()->add_input()->set_name("x");
  add_floats(model, "w1", {kIn, kOut}, random_floats(kIn * kOut, 1));
  add_floats(model, "w2", {kIn, kOut}, random_floats(kIn * kOut, 2));
  add_floats(model, "w3", {kLast, kOut}, random_floats(kLast * kOut, 3));
  add_floats(model, "c", {kLast}, random_floats(kLast, 4));
  add_node(model, "MatMul", "one", {"x", "w1"}, {"left"});
  add_node(model, "MatMul", "two", {"x", "w2"}, {"right"});
  add_node(model, "Add", "sum", {"left", "right"}, {"x_quantized"});
  set_int(add_node(model, "Gemm", "three", {"x_quantized", "w3", "c"}, {"out"}), "transB", 1);
  model.mutable_graph()->add_output()->set_name("out");
  return model;
}

QuantizedMatrix random_codes(const QuantSpec& spec, size_t rows, size_t cols, uint64_t seed) {
  Random random(seed);
  QuantizedMatrix q{.spec = spec, .rows = rows, .cols = cols};
  for (size_t i = 0; i < rows * cols; ++i) q.codes.push_back(static_cast<uint8_t>(random.next() % 256));
  for (size_t r = 0; r < (spec.per_tensor ? 1 : rows); ++r) {
    q.scales.push_back(0.01f * static_cast<float>(r + 1));
    if (!spec.symmetric) q.zeros.push_back(static_cast<uint8_t>(100 + r));
  }
  return q;
}

// y = rounded x times W^T in double, from the codes. `quantizer` gives {scale, zero} for some of the inputs.
template <class Quantizer>
std::vector<double> product(const std::vector<double>& x, const QuantizedMatrix& q, const Quantizer& quantizer) {
  std::vector<double> y;
  for (size_t t = 0; t < x.size() / q.cols; ++t) {
    const auto [scale, zero] = quantizer(x, std::vector(x.begin() + static_cast<ptrdiff_t>(t * q.cols),
                                                        x.begin() + static_cast<ptrdiff_t>((t + 1) * q.cols)));
    for (size_t r = 0; r < q.rows; ++r) {
      const size_t at = q.spec.per_tensor ? 0 : r;
      const double w_zero = q.spec.symmetric ? 128 : q.zeros[at];
      double sum = 0;
      for (size_t c = 0; c < q.cols; ++c)
        sum += (std::clamp(std::nearbyint(x[t * q.cols + c] / scale) + zero, 0.0, 255.0) - zero) *
               (q.codes[r * q.cols + c] - w_zero);
      y.push_back(sum * scale * double{q.scales[at]});
    }
  }
  return y;
}

class IntegerProducts : public testing::Test {
 protected:
  // Rows go in slices, the second one first.
  void write(const std::string& format, const QuantSpec& spec, Mode mode, const onnx::ModelProto& model = graph(),
             bool tensor_ranges = false) {
    write_text_file(folder_ / "model.onnx", model.SerializeAsString());
    source_ = open_onnx_graph(folder_ / "model.onnx");
    OutputModel output{*source_, {}, DType::kF32, false, ""};
    output.tensor_ranges = tensor_ranges;
    const bool symmetric = mode == Mode::kDynamicPerToken;
    const ActivationSpec outer{mode, 8, symmetric, Grid::kInt, 0.02f, 90},
        inner{mode, 8, symmetric, Grid::kInt, 0.5f, 130};
    for (const char* name : {"one", "two", "three"}) {
      const StoredTensor& tensor = source_->get(name);
      output.tensors.push_back({name, tensor.shape(), spec, name[1] == 'h' ? inner : outer, DType::kF32});
    }
    const ExporterEntry& entry = find_exporter(format);
    check_output(entry, output);
    const auto exporter = entry.make(folder_ / "out", true, output);
    for (size_t i = 0; i < 3; ++i) {
      const size_t rows = output.tensors[i].rows(), cols = output.tensors[i].cols();
      codes_[i] = random_codes(spec, rows, cols, i + 5);
      for (const auto& [begin, end] : {std::pair<size_t, size_t>(2, rows), {0, 2}}) {
        QuantizedMatrix part{.spec = spec, .rows = end - begin, .cols = cols};
        part.codes.assign(codes_[i].codes.begin() + static_cast<ptrdiff_t>(begin * cols),
                          codes_[i].codes.begin() + static_cast<ptrdiff_t>(end * cols));
        const size_t from = spec.per_tensor ? 0 : begin, to = spec.per_tensor ? 1 : end;
        part.scales.assign(codes_[i].scales.begin() + static_cast<ptrdiff_t>(from),
                           codes_[i].scales.begin() + static_cast<ptrdiff_t>(to));
        if (!spec.symmetric)
          part.zeros.assign(codes_[i].zeros.begin() + static_cast<ptrdiff_t>(from),
                            codes_[i].zeros.begin() + static_cast<ptrdiff_t>(to));
        exporter->write(i, begin, part);
      }
    }
    exporter->finish();
    out_ = OnnxModel::open(folder_ / "out" / "model.onnx");
    size_t bytes = 0;
    for (const auto& initializer : out_->graph().initializer()) bytes += out_->tensor(initializer).bytes.size();
    EXPECT_EQ(exporter->bytes(), bytes);
  }

  // The output graph, computed operator by operator, against the codes' meaning.
  void expect_right(Mode mode, bool tensor_ranges = false) {
    const std::vector<float> x = random_floats(kTokens * kIn, 9);
    OnnxEvaluator evaluator(*out_);
    evaluator["x"] = {kTokens, kIn, {x.begin(), x.end()}};
    evaluator.run();
    const auto quantizer = [&](float scale, double zero) {
      return [=](const std::vector<double>& all, const std::vector<double>& token) {
        if (mode == Mode::kStatic) return std::pair(double{scale}, zero);
        const std::vector<double>& v = tensor_ranges ? all : token;
        const auto [least, most] = std::minmax_element(v.begin(), v.end());
        if (!tensor_ranges) return std::pair(std::max(-*least, *most) * double{1.0f / 127}, 0.0 + 128);
        const double low = std::min(0.0, *least), step = (std::max(0.0, *most) - low) / 255;
        return std::pair(step, std::nearbyint(-low / step));
      };
    };
    const std::vector<double> wide(x.begin(), x.end());
    std::vector<double> middle = product(wide, codes_[0], quantizer(0.02f, 90));
    const std::vector<double> right = product(wide, codes_[1], quantizer(0.02f, 90));
    for (size_t i = 0; i < middle.size(); ++i) middle[i] += right[i];
    const std::vector<double> want = product(middle, codes_[2], quantizer(0.5f, 130));
    const std::vector<float> bias = random_floats(kLast, 4);
    const auto& got = evaluator["out"];
    ASSERT_EQ(got.v.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got.v[i], want[i] + double{bias[i % kLast]}, 1e-9);
  }

  std::map<std::string, size_t> operators() const {
    std::map<std::string, size_t> counts;
    for (const onnx::NodeProto& node : out_->graph().node()) ++counts[node.op_type()];
    return counts;
  }

  TestFolder folder_;
  std::unique_ptr<Source> source_;
  std::shared_ptr<const OnnxModel> out_;
  std::array<QuantizedMatrix, 3> codes_;
};

QuantSpec int8(bool symmetric, bool per_tensor = false) {
  QuantSpec spec;
  spec.bits = 8;
  spec.group = QuantSpec::kWholeRow;
  spec.symmetric = symmetric;
  spec.per_tensor = per_tensor;
  return spec;
}

using Counts = std::map<std::string, size_t>;

TEST_F(IntegerProducts, RangesOfTheWholeInput) {
  for (const bool symmetric : {true, false})
    for (const bool per_tensor : {true, false}) {
      write("onnx", int8(symmetric, per_tensor), Mode::kDynamicPerToken, graph(), true);
      expect_right(Mode::kDynamicPerToken, true);
      // Both products of x read what one node made of it.
      EXPECT_EQ(operators(),
                (Counts{{"DynamicQuantizeLinear", 2}, {"MatMulInteger", 3}, {"Cast", 3}, {"Mul", 6}, {"Add", 2}}));
    }
  EXPECT_EQ(out_->opset("com.microsoft"), 0);
}

TEST_F(IntegerProducts, RangesOfEachToken) {
  for (const int64_t opset : {13, 21})
    for (const bool symmetric : {true, false}) {
      onnx::ModelProto model = graph();
      model.mutable_opset_import(0)->set_version(opset);
      write("onnx", int8(symmetric), Mode::kDynamicPerToken, model);
      expect_right(Mode::kDynamicPerToken);
      EXPECT_EQ(operators(), (Counts{{"Abs", 2},
                                     {"ReduceMax", 2},
                                     {"Max", 2},
                                     {"Mul", 2 + 6},
                                     {"Div", 2},
                                     {"Round", 2},
                                     {"Cast", 2 + 3},
                                     {"MatMulInteger", 3},
                                     {"Add", 2 + 2}}));
      for (const onnx::NodeProto& node : out_->graph().node())
        if (node.op_type() == "ReduceMax") {
          EXPECT_EQ(node.input_size(), opset < 18 ? 1 : 2);
          EXPECT_EQ(find_attribute(node, "axes") != nullptr, opset < 18);
        }
    }
}

TEST_F(IntegerProducts, StaticRanges) {
  for (const bool symmetric : {true, false})
    for (const bool per_tensor : {true, false}) {
      write("onnx", int8(symmetric, per_tensor), Mode::kStatic);
      expect_right(Mode::kStatic);
      EXPECT_EQ(operators(), (Counts{{"QuantizeLinear", 2}, {"MatMulIntegerToFloat", 3}, {"Add", 2}}));
      write("onnx-qdq", int8(symmetric, per_tensor), Mode::kStatic);
      expect_right(Mode::kStatic);
      EXPECT_EQ(operators(), (Counts{{"QuantizeLinear", 2}, {"DequantizeLinear", 5}, {"MatMul", 3}, {"Add", 2}}));
    }
  EXPECT_EQ(out_->opset("com.microsoft"), 0);
}

TEST_F(IntegerProducts, HalfPrecisionGraphsAreCast) {
  onnx::ModelProto model = graph();
  for (onnx::TensorProto& tensor : *model.mutable_graph()->mutable_initializer()) {
    const size_t count = tensor.raw_data().size() / 4;
    tensor.set_data_type(onnx_type::kFloat16);
    tensor.set_raw_data(std::string(2 * count, '\x30'));
  }
  QuantSpec spec = int8(true);
  spec.scale_dtype = DType::kF16;
  write("onnx", spec, Mode::kStatic, model);
  EXPECT_EQ(operators()["Cast"], 2u + 3u);  // of two inputs and three outputs
  for (const onnx::NodeProto& node : out_->graph().node()) {
    if (node.op_type() != "Cast") continue;
    EXPECT_EQ(int_attribute(node, "to", 0),
              node.input(0).ends_with("_float") ? onnx_type::kFloat16 : onnx_type::kFloat);
  }
}

TEST_F(IntegerProducts, WhatOperatorsCannotHoldIsRefused) {
  const auto refused = [&](const char* format, QuantSpec spec, Mode mode, int bits = 8, bool symmetric = true) {
    OutputTensor tensor{"name", {8, 64}, spec, {mode, bits, symmetric}, DType::kF32};
    return error_text([&] { find_exporter(format).check(tensor); });
  };
  QuantSpec groups = int8(true), four = int8(true);
  groups.group = 32;
  four.bits = 4;
  EXPECT_THAT(refused("onnx", groups, Mode::kDynamicPerToken), HasSubstr("--group-size 0"));
  EXPECT_THAT(refused("onnx", four, Mode::kDynamicPerToken), HasSubstr("8-bit integers"));
  EXPECT_THAT(refused("onnx", int8(true), Mode::kStatic, 6), HasSubstr("--act-bits 8"));
  EXPECT_THAT(refused("onnx-qdq", int8(true), Mode::kDynamicPerToken), HasSubstr("--act static"));
  EXPECT_THAT(refused("onnx", int8(true), Mode::kDynamicPerToken, 8, false), HasSubstr("symmetric"));
  groups.group = 64;  // a group that is the row
  EXPECT_EQ(refused("onnx", groups, Mode::kStatic), "");
}

TEST_F(IntegerProducts, OneInputHasOneRange) {
  write_text_file(folder_ / "model.onnx", graph().SerializeAsString());
  source_ = open_onnx_graph(folder_ / "model.onnx");
  OutputModel output{*source_, {}, DType::kF32, false, ""};
  for (const char* name : {"one", "two"})
    output.tensors.push_back({name,
                              source_->get(name).shape(),
                              int8(true),
                              {Mode::kStatic, 8, false, Grid::kInt, name[0] == 'o' ? 0.1f : 0.2f, 3},
                              DType::kF32});
  const auto exporter = find_exporter("onnx").make(folder_ / "out", true, output);
  for (size_t i = 0; i < 2; ++i) exporter->write(i, 0, random_codes(int8(true), kOut, kIn, i));
  EXPECT_THAT(error_text([&] { exporter->finish(); }), HasSubstr("in another way"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
}

}  // namespace
}  // namespace nibble
