#include "pipeline/gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace nibble {
namespace {

const OrderedJson kResult = {{"ppl", 36.5},
                             {"kld", {{"mean", 0.07}, {"p99", nullptr}}},
                             {"layers", {{{"weight_sqnr_db", 12}}, {{"weight_sqnr_db", 20}}}},
                             {"name", "x"},
                             {"nan", std::nan("")}};

bool fails(const char* text) { return Gate::parse(text).failure(kResult).has_value(); }

TEST(Gate, ComparesWithEveryOperator) {
  EXPECT_TRUE(fails("kld.mean>0.05"));
  EXPECT_FALSE(fails("kld.mean>0.08"));
  EXPECT_TRUE(fails(" ppl >= 36.5 "));
  EXPECT_FALSE(fails("ppl>36.5"));
  EXPECT_TRUE(fails("ppl<=36.5"));
  EXPECT_FALSE(fails("ppl<36.5"));
  EXPECT_TRUE(fails("ppl==36.5"));
  EXPECT_FALSE(fails("ppl!=36.5"));
  EXPECT_TRUE(fails("ppl!=1e-3"));
}

TEST(Gate, IndexesLists) {
  EXPECT_TRUE(fails("layers.0.weight_sqnr_db<15"));
  EXPECT_FALSE(fails("layers.1.weight_sqnr_db<15"));
}

TEST(Gate, ValuesThatAreNoNumbersFail) {
  EXPECT_TRUE(fails("kld.p99>1"));
  EXPECT_TRUE(fails("nan>1"));
  EXPECT_TRUE(fails("nan<1"));
}

TEST(Gate, RefusesWhatItCannotRead) {
  for (const char* text : {"", "ppl", "ppl>", ">3", "ppl>x", "ppl=>3", "ppl>3x", "a..b>3", "ppl>inf", "ppl<>3"})
    EXPECT_THROW(Gate::parse(text), Error) << text;
}

TEST(Gate, NamesWhatIsThereInstead) {
  for (const char* text : {"pl>1", "kld.men>1", "layers.2.weight_sqnr_db>1", "ppl.x>1", "kld>1", "name>1"}) {
    try {
      fails(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage) << text;
      EXPECT_THAT(error.what(), testing::HasSubstr(text));
    }
  }
}

TEST(Gate, AllFailuresAreListed) {
  try {
    check_gates(parse_gates({"ppl>1", "kld.mean>1", "kld.mean>0.01"}), kResult);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kGate);
    EXPECT_STREQ(error.what(), "failed: 'ppl>1' (it is 36.5), 'kld.mean>0.01' (it is 0.07)");
  }
  EXPECT_NO_THROW(check_gates(parse_gates({"ppl>40"}), kResult));
}

}  // namespace
}  // namespace nibble
