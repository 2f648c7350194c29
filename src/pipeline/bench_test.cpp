#include "pipeline/bench.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/test_errors.h"
#include "core/test_folder.h"
#include "core/threads.h"
#include "pipeline/loaded_model.h"
#include "pipeline/tiny_model.h"

namespace nibble {
namespace {

TEST(Rate, MeanAndSampleDeviation) {
  const Rate several = rate({1, 2, 3, 4});
  EXPECT_DOUBLE_EQ(several.mean, 2.5);
  EXPECT_DOUBLE_EQ(several.deviation, std::sqrt(5.0 / 3.0));
  EXPECT_EQ(rate({7}).mean, 7);
  EXPECT_EQ(rate({7}).deviation, 0);
  EXPECT_EQ(rate({}).mean, 0);
}

class Bench : public testing::Test {
 protected:
  Bench() {
    TinyModel model;
    model.write(folder_ / "untied");
    model.tied = true;
    model.write(folder_ / "tied");
  }
  ~Bench() override { set_thread_count(0); }

  LoadedModel load(const std::string& name) const { return load_model(folder_ / name, {}, no_progress()); }

  TestFolder folder_;
};

TEST_F(Bench, OneRowForEachThreadCount) {
  const LoadedModel loaded = load("tied");
  const auto rows = bench(*loaded.model, {.prompt = 9, .tokens = 5, .threads = {2, 1}}, no_progress());
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].threads, 2u);
  EXPECT_EQ(rows[1].threads, 1u);
  for (const BenchRow& row : rows) {
    EXPECT_GT(row.prefill.mean, 0);
    EXPECT_GT(row.decode.mean, 0);
    EXPECT_DOUBLE_EQ(row.decode_gb_s, row.decode.mean * static_cast<double>(loaded.model->token_bytes()) / 1e9);
  }
}

TEST_F(Bench, NothingIsMeasuredThatWasNotAskedFor) {
  const LoadedModel loaded = load("tied");
  const auto rows = bench(*loaded.model, {.prompt = 0, .tokens = 3, .threads = {1}}, no_progress());
  EXPECT_EQ(rows[0].prefill.mean, 0);
  EXPECT_GT(rows[0].decode.mean, 0);
}

TEST_F(Bench, TheContextIsALimit) {
  const LoadedModel loaded = load("tied");
  const auto too_long = [&] { bench(*loaded.model, {.prompt = 65, .threads = {1}}, no_progress()); };
  EXPECT_EQ(error_kind(too_long), ErrorKind::kUsage);
  EXPECT_THAT(error_text(too_long), testing::HasSubstr("context is 64"));
}

// A token looks up one row of the embedding; where that is the last matrix too, it is read whole.
TEST_F(Bench, BytesOfAToken) {
  const LoadedModel tied = load("tied"), untied = load("untied");
  EXPECT_EQ(tied.model->token_bytes(), tied.model->weight_bytes());
  EXPECT_EQ(untied.model->weight_bytes() - untied.model->token_bytes(), 128u * 64 * sizeof(float));
}

}  // namespace
}  // namespace nibble
