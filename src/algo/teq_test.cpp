#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "algo/algorithm.h"
#include "algo/chain.h"
#include "algo/equalize.h"
#include "core/random.h"
#include "core/test_errors.h"
#include "core/threads.h"

namespace nibble {
namespace {

constexpr size_t kCols = 64, kTokens = 40;

// Two linears, one behind the other: out = hidden A^T B^T.
class TwoProducts final : public BlockGradient {
 public:
  void run(const Weights& weights, MatrixView<const float> hidden, MatrixView<float> out) override {
    hidden_ = hidden;
    middle_.assign(kTokens * kCols, 0.0f);
    multiply(hidden, weights[0][0], matrix(middle_.data(), kTokens, kCols));
    multiply(matrix<const float>(middle_.data(), kTokens, kCols), weights[1][0], out);
  }

  void backward(const Weights& weights, MatrixView<const float> d_out, const Sink& sink) override {
    std::vector<float> d_middle(kTokens * kCols), gradient(kCols * kCols);
    const auto give = [&](size_t stage, MatrixView<const float> d, MatrixView<const float> x) {
      for (size_t r = 0; r < kCols; ++r)
        for (size_t c = 0; c < kCols; ++c) {
          float& sum = gradient[r * kCols + c] = 0;
          for (size_t t = 0; t < kTokens; ++t) sum += d.row(t)[r] * x.row(t)[c];
        }
      sink(stage, 0, matrix<const float>(gradient.data(), kCols, kCols));
    };
    give(1, d_out, matrix<const float>(middle_.data(), kTokens, kCols));
    for (size_t t = 0; t < kTokens; ++t)
      for (size_t r = 0; r < kCols; ++r)
        for (size_t c = 0; c < kCols; ++c) d_middle[t * kCols + c] += d_out.row(t)[r] * weights[1][0].row(r)[c];
    give(0, matrix<const float>(d_middle.data(), kTokens, kCols), hidden_);
  }

 private:
  static void multiply(MatrixView<const float> x, MatrixView<const float> w, MatrixView<float> y) {
    for (size_t t = 0; t < x.rows; ++t)
      for (size_t r = 0; r < w.rows; ++r) {
        y.row(t)[r] = 0;
        for (size_t c = 0; c < w.cols; ++c) y.row(t)[r] += x.row(t)[c] * w.row(r)[c];
      }
  }

  MatrixView<const float> hidden_;
  std::vector<float> middle_;
};

class TeqTest : public testing::Test {
 protected:
  TeqTest() {
    Random random(5);
    for (auto* w : {&first_, &second_}) {
      w->resize(kCols * kCols);
      for (float& value : *w) value = static_cast<float>(random.uniform() - 0.5);
    }
    for (auto& document : documents_) {
      document.resize(kTokens * kCols);
      // A few columns are much larger than the rest: these are worth finer steps.
      for (size_t i = 0; i < document.size(); ++i)
        document[i] = static_cast<float>((random.uniform() - 0.5) * (i % kCols % 13 == 0 ? 20 : 1));
      views_.push_back(matrix<const float>(document.data(), kTokens, kCols));
    }
    for (BlockStage& stage : stages_) {
      stage.cols = kCols;
      for (uint32_t c = 0; c < kCols; ++c) stage.fold.producer.push_back(c);
    }
    for (uint32_t c = 0; c < kCols; ++c) stages_[1].fold.producer[c] = c / 2;
    weights_ = {{matrix<const float>(first_.data(), kCols, kCols)},
                {matrix<const float>(second_.data(), kCols, kCols)}};
    spec_.bits = 3;
    spec_.group = 32;
  }

  std::vector<std::vector<float>> train(const AlgorithmSettings& settings, std::vector<bool> scalable = {true, true},
                                        bool first_quantized = true) {
    const AlgorithmEntry& entry = find_algorithm("teq");
    const std::vector<std::vector<const QuantSpec*>> specs = {{first_quantized ? &spec_ : nullptr}, {&spec_}};
    return entry.make_trainer(complete_settings(entry, settings))
        ->scales({block_, stages_, weights_, specs, scalable, views_});
  }

  // The mean squared error of the output over all documents.
  double loss(const std::vector<std::vector<float>>& scales) {
    const auto rtn = make_algorithm("rtn", {});
    const std::vector<float> ones(kCols, 1.0f);
    std::vector<std::vector<float>> rounded;
    BlockGradient::Weights weights;
    for (size_t s = 0; s < 2; ++s) {
      rounded.push_back(scaled_rounding(weights_[s][0], spec_, *rtn, ones, scales[s].empty() ? ones : scales[s]));
      for (size_t i = 0; i < rounded[s].size(); ++i) rounded[s][i] += weights_[s][0].data[i];
      weights.push_back({matrix<const float>(rounded[s].data(), kCols, kCols)});
    }
    double sum = 0;
    std::vector<float> want(kTokens * kCols), got(kTokens * kCols);
    for (const auto& document : views_) {
      block_.run(weights_, document, matrix(want.data(), kTokens, kCols));
      block_.run(weights, document, matrix(got.data(), kTokens, kCols));
      for (size_t i = 0; i < want.size(); ++i)
        sum += std::pow(static_cast<double>(got[i]) - static_cast<double>(want[i]), 2);
    }
    return sum;
  }

  std::vector<float> first_, second_, documents_[3];
  std::vector<MatrixView<const float>> views_;
  std::vector<BlockStage> stages_{2};
  BlockGradient::Weights weights_;
  QuantSpec spec_;
  TwoProducts block_;
};

TEST_F(TeqTest, LowersTheErrorOfTheOutput) {
  const auto scales = train({{"iters", 60}, {"lr", 0.03}});
  EXPECT_LT(loss(scales), 0.8 * loss({{}, {}}));
  for (const auto& stage : scales) {
    ASSERT_EQ(stage.size(), kCols);
    for (const float s : stage) EXPECT_GT(s, 0);
  }
  double large = 0, small = 0;
  for (size_t c = 0; c < kCols; ++c) (c % 13 == 0 ? large : small) += std::log(double{scales[0][c]});
  EXPECT_GT(large / 5, small / 59);
}

TEST_F(TeqTest, ColumnsOfOneProducerShareTheirFactor) {
  const auto scales = train({{"iters", 9}});
  for (size_t c = 0; c < kCols; c += 2) EXPECT_EQ(scales[1][c], scales[1][c + 1]);
  EXPECT_NE(scales[1][0], scales[1][2]);
}

TEST_F(TeqTest, IsNeverWorseThanNoFactors) {
  const std::vector<float> ones(kCols, 1.0f);
  EXPECT_EQ(train({{"iters", 0}}), (std::vector<std::vector<float>>{ones, ones}));
  const double plain = loss({{}, {}});
  for (const double rate : {0.001, 0.1, 1.0}) EXPECT_LE(loss(train({{"iters", 7}, {"lr", rate}})), plain) << rate;
}

TEST_F(TeqTest, LeavesStagesAloneThatCannotTakeFactors) {
  const auto scales = train({{"iters", 6}}, {false, true});
  EXPECT_TRUE(scales[0].empty());
  EXPECT_EQ(scales[1].size(), kCols);
  // A float linear has no rounding to train.
  EXPECT_EQ(train({{"iters", 6}}, {true, false}, false)[0], std::vector<float>(kCols, 1.0f));
}

TEST_F(TeqTest, DoesNotDependOnThreads) {
  set_thread_count(1);
  const auto one = train({{"iters", 6}});
  set_thread_count(3);
  const auto three = train({{"iters", 6}});
  set_thread_count(0);
  EXPECT_EQ(one, three);
}

TEST_F(TeqTest, WholeMatrixGridsAreRoundedAsAWhole) {
  spec_.per_tensor = true;
  spec_.group = QuantSpec::kWholeRow;
  EXPECT_LT(loss(train({{"iters", 30}})), loss({{}, {}}));
}

TEST(Teq, StandsBehindEqualizersAndBeforeRoundings) {
  const AlgorithmChain chain("awq,teq,gptq", {});
  EXPECT_EQ(chain.equalizers().size(), 1U);
  EXPECT_EQ(chain.trainers().size(), 1U);
  EXPECT_TRUE(AlgorithmChain("teq", {}).prepares());
  EXPECT_TRUE(AlgorithmChain("teq", {}).needs_inputs());
  EXPECT_NE(error_text([] { AlgorithmChain("teq,awq", {}); }).find("teq trains on what awq makes"), std::string::npos);
  EXPECT_NE(error_text([] { AlgorithmChain("teq,gptq,awq", {}); }).find("name it before gptq"), std::string::npos);
}

}  // namespace
}  // namespace nibble
