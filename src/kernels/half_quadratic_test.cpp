#include "kernels/half_quadratic.h"

#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

class HalfQuadratics : public EveryTable {};

constexpr size_t kGroups = kHalfQuadraticGroups;

struct Case {
  size_t n;
  float top, power;
  std::vector<float> steps, factors;

  Case(size_t count, float largest, float exponent, uint64_t seed) : n(count), top(largest), power(exponent) {
    steps = random_floats(n * kGroups, seed, 0.7f * top);
    for (float& x : steps) x += 0.5f * top;                // some lie beyond the codes
    for (size_t g = 0; g < kGroups; g += 2) steps[g] = 1;  // no error at all
    for (size_t g = 0; g < kGroups; ++g)
      factors.push_back(g == 0 ? 0.0f : g == 1 ? 1e30f : 0.02f * static_cast<float>(g));
  }
  HalfQuadratic arguments(int iterations) const {
    return {steps.data(), n, factors.data(), top, power, 1.25f, iterations};
  }
};

// One iteration of group g at `shift`: sum |e| and the new shift.
std::pair<double, double> iterate(const Case& c, size_t g, double shift, double factor) {
  double error = 0, change = 0;
  for (size_t i = 0; i < c.n; ++i) {
    const double y = static_cast<double>(c.steps[i * kGroups + g]) + shift;
    const double e = y - std::nearbyint(std::min(std::max(y, 0.0), static_cast<double>(c.top)));
    const double left = std::abs(e) - factor * std::pow(std::abs(e) + 1e-30, static_cast<double>(c.power));
    error += std::abs(e);
    change += std::copysign(std::max(left, 0.0), e) - e;
  }
  return {error, shift + change / static_cast<double>(c.n)};
}

// Beyond an iteration or two, rounding decides where a weight lies halfway between codes: the reference starts anew
// from the shift found, which is the best of the first `iterations`.
TEST_P(HalfQuadratics, AgreesWithDouble) {
  for (const size_t n : {1u, 2u, 7u, 64u, 1000u})
    for (const float top : {1.0f, 15.0f, 255.0f})
      for (const float power : {-0.9f, -0.3f, 0.0f}) {
        const Case c(n, top, power, n);
        std::vector<float> shifts(kGroups), errors(kGroups);
        for (const int iterations : {1, 2, 20}) {
          half_quadratic(table(), c.arguments(iterations), shifts.data(), errors.data());
          for (size_t g = 0; g < kGroups; ++g) {
            const double factor = static_cast<double>(c.factors[g]);
            const auto [error, next] = iterate(c, g, 0, factor);
            const double second = iterate(c, g, next, factor / 1.25).first;
            const double found = iterate(c, g, static_cast<double>(shifts[g]), factor).first;
            const double near = 4e-6 * static_cast<double>(top) + 1e-5 * error;
            ASSERT_NEAR(errors[g], found, near * static_cast<double>(n)) << n << " group " << g;
            ASSERT_LE(errors[g], error * (1 + 1e-6) + near) << n << " group " << g;
            if (iterations == 1) {
              ASSERT_EQ(shifts[g], 0.0f);
            } else if (iterations == 2 && second < 0.999 * error) {
              ASSERT_NEAR(shifts[g], next, 1e-5) << n << " group " << g << " top " << top << " power " << power;
            }
          }
        }
      }
}

TEST_P(HalfQuadratics, IsBitEqualInEveryTable) {
  for (const size_t n : {1u, 5u, 64u, 300u}) {
    const Case c(n, 15.0f, -0.3f, 7);
    std::vector<float> shifts(kGroups), errors(kGroups), want_shifts(kGroups), want_errors(kGroups);
    half_quadratic(table(), c.arguments(20), shifts.data(), errors.data());
    half_quadratic(*available().back(), c.arguments(20), want_shifts.data(), want_errors.data());
    EXPECT_EQ(shifts, want_shifts) << n;
    EXPECT_EQ(errors, want_errors) << n;
  }
}

TEST_P(HalfQuadratics, GroupsDoNotInfluenceEachOther) {
  const Case c(40, 7.0f, -0.3f, 3);
  std::vector<float> shifts(kGroups), errors(kGroups), others(kGroups);
  half_quadratic(table(), c.arguments(20), shifts.data(), errors.data());
  for (size_t g = 0; g < kGroups; ++g) {
    Case alone = c;
    for (size_t i = 0; i < alone.steps.size(); ++i)
      if (i % kGroups != g) alone.steps[i] = 0;
    half_quadratic(table(), alone.arguments(20), others.data(), errors.data());
    EXPECT_EQ(others[g], shifts[g]);
  }
}

NIBBLE_FOR_EVERY_TABLE(HalfQuadratics);

}  // namespace
}  // namespace nibble::kernels
