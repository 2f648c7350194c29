#include "pipeline/effort.h"

#include <gtest/gtest.h>

#include "algo/chain.h"
#include "core/test_errors.h"

namespace nibble {
namespace {

TEST(Effort, EveryLevelNamesAlgorithmsAndOptionsThatExist) {
  for (const std::string_view name : effort_names()) {
    QuantizeRequest request;
    apply_effort(name, request);
    ASSERT_TRUE(request.algorithm);
    const AlgorithmChain chain(*request.algorithm, request.settings);
    EXPECT_EQ(chain.needs_inputs(), request.calibration.samples.has_value()) << name;
    for (const auto& [algorithm, settings] : request.settings)
      EXPECT_NE(std::find(chain.names().begin(), chain.names().end(), algorithm), chain.names().end()) << name;
  }
}

TEST(Effort, WhatTheUserSaysStays) {
  QuantizeRequest request;
  request.calibration.samples = 7;
  request.settings["gptq"]["passes"] = 2;
  apply_effort("BEST", request);
  EXPECT_EQ(request.calibration.samples, 7U);
  EXPECT_EQ(request.settings["gptq"]["passes"], 2);
  QuantizeRequest own;
  own.algorithm = "rtn";
  apply_effort("best", own);
  EXPECT_EQ(own.algorithm, "rtn");
  EXPECT_TRUE(own.settings.empty());
  EXPECT_EQ(error_kind([&] { apply_effort("most", own); }), ErrorKind::kUsage);
}

}  // namespace
}  // namespace nibble
