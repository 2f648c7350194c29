#pragma once
// For tests: one suite run with each table of this CPU, inputs in buffers of exactly their size (ASan sees any
// overrun).
#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <vector>

#include "core/random.h"
#include "kernels/kernels.h"

namespace nibble::kernels {

class EveryTable : public testing::TestWithParam<const Table*> {
 protected:
  const Table& table() const { return *GetParam(); }
};

inline std::string table_name(const testing::TestParamInfo<const Table*>& parameter) {
  return std::string(parameter.param->name);
}

#define NIBBLE_FOR_EVERY_TABLE(suite) \
  INSTANTIATE_TEST_SUITE_P(Isa, suite, testing::ValuesIn(available().begin(), available().end()), table_name)

// Every length up to beyond four vectors of the widest table, then longer ones around a power of two.
inline std::vector<size_t> lengths() {
  std::vector<size_t> all;
  for (size_t n = 0; n <= 70; ++n) all.push_back(n);
  for (size_t n : {127u, 128u, 129u, 1000u, 4096u, 4099u}) all.push_back(n);
  return all;
}

// Uniform in [-range, range).
inline std::vector<float> random_floats(size_t n, uint64_t seed, float range = 1.0f) {
  Random random(seed);
  std::vector<float> out(n);
  for (float& value : out) value = static_cast<float>(random.uniform() * 2 - 1) * range;
  return out;
}

inline std::vector<uint8_t> random_bytes(size_t n, uint64_t seed, unsigned limit = 256) {
  Random random(seed);
  std::vector<uint8_t> out(n);
  for (uint8_t& value : out) value = static_cast<uint8_t>(random.next() % limit);
  return out;
}

}  // namespace nibble::kernels
