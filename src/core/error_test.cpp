#include "core/error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>

#include "core/interrupt.h"
#include "core/random.h"
#include "core/test_errors.h"
#include "core/usage.h"

namespace nibble {
namespace {

TEST(Error, ContextIsPutInFront) {
  const auto fail = [] {
    with_context(
        [] { return "model.gguf"; },
        [] { with_context([] { return cat("tensor ", 3); }, [] { throw Error(ErrorKind::kCorrupt, "too short"); }); });
  };
  EXPECT_EQ(error_text(fail), "model.gguf: tensor 3: too short");
  EXPECT_EQ(error_kind(fail), ErrorKind::kCorrupt);
  EXPECT_EQ(with_context([]() -> std::string { throw "not evaluated without an error"; }, [] { return 7; }), 7);
}

TEST(Error, IoErrorsGiveTheSystemsReason) {
  EXPECT_STREQ(io_error("cannot write x", ENOSPC).what(), "cannot write x: No space left on device");
  EXPECT_EQ(io_error("x", ENOENT).kind(), ErrorKind::kIo);
}

// In a child process: the flag stays set for good.
TEST(Interrupt, FirstSignalSetsTheFlagSecondEndsTheProcess) {
  const auto twice = [] {
    install_interrupt_handler();
    check_interrupted();
    std::raise(SIGINT);
    if (!interrupted() || error_kind([] { check_interrupted(); }) != ErrorKind::kInterrupted) std::exit(1);
    std::raise(SIGINT);
    std::exit(2);
  };
  EXPECT_EXIT(twice(), testing::KilledBySignal(SIGINT), "");
}

TEST(Random, IsSplitMix64) {
  // First outputs for seed 0 and 1234567, as published with the reference implementation.
  Random zero(0);
  EXPECT_EQ(zero.next(), 0xe220a8397b1dcdafu);
  EXPECT_EQ(zero.next(), 0x6e789e6aa1b965f4u);
  Random other(1234567);
  EXPECT_EQ(other.next(), 6457827717110365317u);
  EXPECT_EQ(other.next(), 3203168211198807973u);
}

TEST(Random, UniformFillsTheUnitInterval) {
  Random random(7);
  double sum = 0, low = 1, high = 0;
  constexpr int kCount = 100'000;
  for (int i = 0; i < kCount; ++i) {
    const double x = random.uniform();
    sum += x, low = std::min(low, x), high = std::max(high, x);
  }
  EXPECT_GE(low, 0);
  EXPECT_LT(low, 1e-3);
  EXPECT_LT(high, 1);
  EXPECT_GT(high, 1 - 1e-3);
  EXPECT_NEAR(sum / kCount, 0.5, 5 * 0.2887 / 316);  // five standard errors
}

TEST(Usage, CountersAdvance) {
  const double cpu = cpu_seconds(), wall = wall_seconds();
  while (cpu_seconds() - cpu < 0.02) {
  }
  EXPECT_GT(wall_seconds(), wall);
  EXPECT_GT(peak_rss_bytes(), size_t{1} << 20);
}

}  // namespace
}  // namespace nibble
