#include <gmock/gmock.h>

#include <cmath>

#include "algo/algorithm.h"
#include "core/error.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using testing::HasSubstr;
using testing_support::message_of;

TEST(Algorithms, AreListedWithSaneOptions) {
  ASSERT_FALSE(algorithms().empty());
  EXPECT_EQ(algorithms()[0].name, "rtn");
  for (const AlgorithmEntry& entry : algorithms()) {
    EXPECT_FALSE(entry.summary.empty());
    for (const AlgorithmOption& option : entry.options) {
      EXPECT_LE(option.low, option.value) << entry.name << "." << option.name;
      EXPECT_LE(option.value, option.high) << entry.name << "." << option.name;
      EXPECT_FALSE(option.help.empty());
    }
    EXPECT_TRUE(entry.make || entry.make_equalizer || entry.make_trainer);
    EXPECT_TRUE(!entry.make || make_algorithm(entry.name, {}));
    EXPECT_TRUE(!entry.make_equalizer || entry.make_equalizer(complete_settings(entry, {})));
    EXPECT_TRUE(!entry.make_trainer || entry.make_trainer(complete_settings(entry, {})));
  }
}

TEST(Algorithms, RefuseUnknownNamesOptionsAndValues) {
  EXPECT_THAT(message_of([] { make_algorithm("gptx", {}); }),
              HasSubstr("unknown algorithm 'gptx'; known: rtn, search"));
  EXPECT_THAT(message_of([] {
                make_algorithm("rtn", {{"clop", 1}});
              }),
              HasSubstr("rtn has no option 'clop'; it has: clip"));
  EXPECT_THAT(message_of([] {
                make_algorithm("rtn", {{"clip", 0.05}});
              }),
              HasSubstr("rtn.clip must be in [0.1, 1], not 0.05"));
  EXPECT_THAT(message_of([] { make_algorithm("rtn", {{"clip", std::nan("")}}); }), HasSubstr("rtn.clip"));
  EXPECT_NO_THROW(make_algorithm("rtn", {{"clip", 0.1}}));
}

}  // namespace
}  // namespace nibble
