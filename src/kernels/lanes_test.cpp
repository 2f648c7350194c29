#include "kernels/lanes.h"

#include <algorithm>
#include <cmath>

#include "kernels/every_table.h"

namespace nibble::kernels {
namespace {

class Lanes : public EveryTable {};

struct Rows {
  std::vector<std::vector<float>> rows;
  std::vector<const float*> pointers;
  Rows(size_t count, size_t length, uint64_t seed) {
    for (size_t i = 0; i < count; ++i) rows.push_back(random_floats(length + i, seed + i));
    for (const auto& row : rows) pointers.push_back(row.data());
  }
};

TEST_P(Lanes, ProductsAgreeWithDouble) {
  const LaneTable& lanes = lane_table(table());
  EXPECT_EQ(lanes.kernels, table().name);
  for (const size_t depth : {0u, 1u, 2u, 7u, 8u, 63u, 200u})
    for (size_t count = 1; count <= kLaneBlock; ++count) {
      const Rows l(count, depth, 1);
      const auto x = random_floats(depth * kRowLanes, 20);
      std::vector<float> sums(count * kRowLanes, 99.0f);
      lanes.products(l.pointers.data(), count, x.data(), depth, sums.data());
      for (size_t i = 0; i < count; ++i)
        for (size_t lane = 0; lane < kRowLanes; ++lane) {
          double want = 0, magnitude = 0;
          for (size_t j = 0; j < depth; ++j) {
            const double term = double{l.rows[i][j]} * double{x[j * kRowLanes + lane]};
            want += term, magnitude += std::abs(term);
          }
          ASSERT_NEAR(sums[i * kRowLanes + lane], want, 1e-6 * magnitude) << depth << " " << count;
        }
    }
}

// The definition in double on one lane; false where a level is so near a tie that float may decide otherwise.
bool round_lane(const LaneColumns& p, size_t lane, std::vector<double> sums, std::vector<double>& differences,
                std::vector<double>& after, std::vector<int>& codes) {
  bool clear = true;
  for (size_t i = 0; i < p.count; ++i) {
    const double scale = double{p.grids[i].scale[lane]}, zero = double{p.grids[i].zero[lane]},
                 offset = double{p.grids[i].offset[lane]}, diagonal = double{p.rows[i][p.first + i]};
    const double weight = double{p.x[i * kRowLanes + lane]};
    const double exact = (weight + sums[i] / diagonal - offset) / scale + zero;
    clear = clear && std::abs(exact - std::floor(exact) - 0.5) > 1e-3;
    const double code = std::clamp(std::nearbyint(exact), 0.0, double{p.top});
    codes.push_back(static_cast<int>(code));
    differences.push_back(weight - (scale * (code - zero) + offset));
    after.push_back(sums[i] + diagonal * differences.back());
    for (size_t k = i + 1; k < p.count; ++k) sums[k] += double{p.rows[k][p.first + i]} * differences.back();
  }
  return clear;
}

TEST_P(Lanes, RoundAgreesWithDouble) {
  const LaneTable& lanes = lane_table(table());
  size_t compared = 0;
  for (const bool mins : {false, true})
    for (const float top : {1.0f, 15.0f, 255.0f})
      for (const size_t first : {0u, 5u})
        for (size_t count = 1; count <= kLaneBlock; ++count) {
          Rows l(count, first + 1, 3);
          for (size_t i = 0; i < count; ++i) l.rows[i][first + i] = 1.5f + 0.1f * static_cast<float>(i);
          auto scales = random_floats(count * kRowLanes, 4), zeros = std::vector<float>(count * kRowLanes),
               offsets = zeros;
          for (size_t i = 0; i < scales.size(); ++i) {
            scales[i] = std::copysign(2.0f / top, scales[i]);
            if (mins)
              offsets[i] = scales[i] * -0.3f * top;
            else
              zeros[i] = static_cast<float>(i % (static_cast<size_t>(top) + 1));
          }
          std::vector<LaneGrid> grids;
          for (size_t i = 0; i < count; ++i)
            grids.push_back({&scales[i * kRowLanes], &zeros[i * kRowLanes], &offsets[i * kRowLanes]});
          const auto x = random_floats(count * kRowLanes, 5, 2.0f), sums = random_floats(count * kRowLanes, 6);
          auto differences = x, after = sums;
          std::vector<uint8_t> codes(count * kRowLanes, 77);
          LaneColumns p = {l.pointers.data(),  first,        count,       grids.data(), top,
                           differences.data(), after.data(), codes.data()};
          lanes.round(p);
          p.x = const_cast<float*>(x.data());
          for (size_t lane = 0; lane < kRowLanes; ++lane) {
            std::vector<double> start, want_difference, want_after;
            std::vector<int> want_codes;
            for (size_t i = 0; i < count; ++i) start.push_back(double{sums[i * kRowLanes + lane]});
            if (!round_lane(p, lane, start, want_difference, want_after, want_codes)) continue;
            ++compared;
            for (size_t i = 0; i < count; ++i) {
              ASSERT_EQ(codes[i * kRowLanes + lane], want_codes[i]);
              ASSERT_NEAR(differences[i * kRowLanes + lane], want_difference[i], 1e-5);
              ASSERT_NEAR(after[i * kRowLanes + lane], want_after[i], 3e-5);
            }
          }
        }
  EXPECT_GT(compared, 2500u);  // of 3072
}

TEST_P(Lanes, RoundGivesCodesForAnything) {
  const LaneTable& lanes = lane_table(table());
  const float diagonal = 1.0f;
  const float* row = &diagonal;
  std::vector<float> scale(kRowLanes, 1e-3f), zero(kRowLanes, 3.0f), offset(kRowLanes), sums(kRowLanes), x(kRowLanes);
  for (size_t lane = 0; lane < kRowLanes; ++lane) {
    x[lane] = lane % 4 == 0 ? 3e38f : lane % 4 == 1 ? -3e38f : lane % 4 == 2 ? INFINITY : NAN;
    if (lane >= 16) scale[lane] = 0;
  }
  const LaneGrid grid = {scale.data(), zero.data(), offset.data()};
  std::vector<uint8_t> codes(kRowLanes, 77);
  lanes.round({&row, 0, 1, &grid, 7.0f, x.data(), sums.data(), codes.data()});
  for (size_t lane = 0; lane < kRowLanes; ++lane)
    EXPECT_EQ(codes[lane], lane % 4 == 0 || lane % 4 == 2 ? 7 : 0) << lane;
}

TEST_P(Lanes, GramAgreesWithDouble) {
  const LaneTable& lanes = lane_table(table());
  for (size_t count = 0; count <= 14; ++count)
    for (const size_t depth : {0u, 1u, 3u, 16u}) {
      // Never empty: lanes are offsets, which a null pointer must not get.
      const auto v = random_floats(std::max(count * depth, size_t{1}) * kRowLanes, 8);
      const auto before = random_floats(std::max(count * (count + 1) / 2, size_t{1}) * kRowLanes, 9);
      auto sums = before;
      lanes.gram(v.data(), count, depth, sums.data());
      size_t at = 0;
      for (size_t g = 0; g < count; ++g)
        for (size_t h = 0; h <= g; ++h)
          for (size_t lane = 0; lane < kRowLanes; ++lane, ++at) {
            double want = double{before[at]}, magnitude = std::abs(want);
            for (size_t i = 0; i < depth; ++i) {
              const double term =
                  double{v[(g * depth + i) * kRowLanes + lane]} * double{v[(h * depth + i) * kRowLanes + lane]};
              want += term, magnitude += std::abs(term);
            }
            ASSERT_NEAR(sums[at], want, 1e-6 * magnitude) << count << " " << depth;
          }
    }
}

TEST_P(Lanes, ColumnsOfATriangleAgreeWithDouble) {
  const LaneTable& lanes = lane_table(table());
  for (const size_t rows : {0u, 1u, 2u, 5u, 40u})
    for (const size_t column : {0u, 3u}) {
      // Rows first, first + 1, ... of a packed triangle, its last element the last one read.
      const size_t first = column + kLaneBlock, last = first + rows;
      const auto start = [](size_t i) { return i * (i + 1) / 2; };
      const size_t size = rows == 0 ? 1 : start(last - 1) + column + kLaneBlock;
      const auto l = random_floats(size, 1), e = random_floats(std::max(rows, size_t{1}) * kRowLanes, 2),
                 d = random_floats(kLaneBlock * kRowLanes, 3);
      auto sums = d, spread = e;
      const float* const at = l.data() + (rows == 0 ? 0 : start(first) + column);
      lanes.gather(at, first, rows, e.data(), sums.data());
      lanes.spread(at, first, rows, d.data(), spread.data());
      for (size_t lane = 0; lane < kRowLanes; ++lane) {
        for (size_t k = 0; k < kLaneBlock; ++k) {
          double want = double{d[k * kRowLanes + lane]}, magnitude = std::abs(want);
          for (size_t i = 0; i < rows; ++i) {
            const double term = double{l[start(first + i) + column + k]} * double{e[i * kRowLanes + lane]};
            want += term, magnitude += std::abs(term);
          }
          ASSERT_NEAR(sums[k * kRowLanes + lane], want, 1e-6 * magnitude) << rows;
        }
        for (size_t i = 0; i < rows; ++i) {
          double want = double{e[i * kRowLanes + lane]}, magnitude = std::abs(want);
          for (size_t k = 0; k < kLaneBlock; ++k) {
            const double term = double{l[start(first + i) + column + k]} * double{d[k * kRowLanes + lane]};
            want += term, magnitude += std::abs(term);
          }
          ASSERT_NEAR(spread[i * kRowLanes + lane], want, 1e-6 * magnitude) << rows;
        }
      }
    }
}

NIBBLE_FOR_EVERY_TABLE(Lanes);

}  // namespace
}  // namespace nibble::kernels
