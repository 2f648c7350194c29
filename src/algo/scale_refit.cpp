#include "algo/scale_refit.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "algo/group_scale.h"

namespace nibble {
namespace {

using kernels::kLaneBlock;

constexpr size_t kDepth = 16;        // positions whose products meet at once
constexpr double kRidge = 1e-6;      // of A's mean diagonal: groups that hardly matter stay where they are
constexpr double kLeastGain = 1e-6;  // of what the correction changes: below it is rounding error

// The factor's columns, those of a group side by side, in the order of their positions.
struct GroupedColumns {
  std::vector<uint32_t> position;  // [cols]
  std::vector<size_t> place;       // [cols]: where among them a position stands
  std::vector<size_t> begin;       // [groups + 1]

  explicit GroupedColumns(const LaneContext& context)
      : position(context.cols), place(context.cols), begin(context.groups + 1) {
    for (const uint32_t g : context.group_at) ++begin[g + 1];
    for (size_t g = 0; g < context.groups; ++g) begin[g + 1] += begin[g];
    std::vector<size_t> next(begin.begin(), begin.end() - 1);
    for (size_t i = 0; i < context.cols; ++i) {
      place[i] = next[context.group_at[i]]++;
      position[place[i]] = static_cast<uint32_t>(i);
    }
  }
};

// out[i] = row[position[i]].
void gather(const float* row, const uint32_t* position, size_t count, float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = row[position[i]];
}

// What is known of one block of rows: levels by grouped column, and the products of all unknowns and of d.
struct BlockSystem {
  std::vector<float> levels;    // [cols, kRowLanes]
  std::vector<float> products;  // packed [unknowns + 1, unknowns + 1, kRowLanes]
};

// A x = b by Cholesky in double: A = R^T R, R lower triangular, then x rounded from its first element on, the others
// taking up the error, as Babai does.
class RowSystem {
 public:
  explicit RowSystem(size_t n) : n_(n), a_(n * n), r_(n * n), b_(n), x_(n) {}

  double& a(size_t i, size_t j) { return a_[i * n_ + j]; }  // i >= j
  double& b(size_t i) { return b_[i]; }
  double x(size_t i) const { return x_[i]; }

  bool factor() {
    double trace = 0;
    for (size_t i = 0; i < n_; ++i) trace += a(i, i);
    r_ = a_;
    for (size_t i = 0; i < n_; ++i) r_[i * n_ + i] += kRidge * trace / static_cast<double>(n_) + 1e-300;
    for (size_t i = n_; i-- > 0;) {
      double* const row = &r_[i * n_];
      if (!(row[i] > 0) || !std::isfinite(row[i])) return false;
      const double root = std::sqrt(row[i]);
      for (size_t k = 0; k <= i; ++k) row[k] /= root;
      for (size_t j = 0; j < i; ++j)
        for (size_t k = 0; k <= j; ++k) r_[j * n_ + k] -= row[j] * row[k];
    }
    return true;
  }

  // round(i, x) gives what element i can be, near x.
  template <class Round>
  void solve(const Round& round) {
    std::vector<double>& y = x_;
    y = b_;
    for (size_t i = n_; i-- > 0;) {  // R^T y = b
      y[i] /= r_[i * n_ + i];
      for (size_t j = 0; j < i; ++j) y[j] -= r_[i * n_ + j] * y[i];
    }
    for (size_t i = 0; i < n_; ++i) {  // R x = y with what the elements before have become
      double sum = y[i];
      for (size_t j = 0; j < i; ++j) sum -= r_[i * n_ + j] * x_[j];
      x_[i] = round(i, sum / r_[i * n_ + i]);
    }
  }

  // x A x - 2 b x, what x changes in the error; `magnitude` of its terms.
  double change(double& magnitude) const {
    double square = 0, product = 0;
    for (size_t i = 0; i < n_; ++i) {
      product += b_[i] * x_[i];
      for (size_t j = 0; j <= i; ++j) square += (i == j ? 1.0 : 2.0) * x_[i] * a_[i * n_ + j] * x_[j];
    }
    magnitude = std::abs(square) + 2 * std::abs(product);
    return square - 2 * product;
  }

 private:
  size_t n_;
  std::vector<double> a_, r_, b_, x_;
};

class Refit {
 public:
  Refit(const LaneContext& context, std::span<LaneRows> blocks)
      : context_(context),
        blocks_(blocks),
        columns_(context),
        mins_(context.rounding.spec.mins),
        unknowns_(context.groups * (mins_ ? 2 : 1)),
        systems_(blocks.size()),
        ones_(mins_ ? context.cols * kRowLanes : 0, 1.0f),
        seen_(context.groups),
        packed_(kDepth * context.cols),
        projections_((unknowns_ + 1) * kDepth * kRowLanes),
        equations_(unknowns_) {
    for (size_t k = 0; k < blocks.size(); ++k) {
      systems_[k].products.resize((unknowns_ + 1) * (unknowns_ + 2) / 2 * kRowLanes);
      systems_[k].levels.resize(context.cols * kRowLanes);
      for (size_t c = 0; c < context.cols; ++c) load_levels(blocks[k], c, &systems_[k].levels[c * kRowLanes]);
    }
    for (size_t c = 0; c < ones_.size(); ++c)
      if (context.dead[columns_.position[c / kRowLanes]]) ones_[c] = 0;
  }

  void run() {
    for (size_t at = 0; at < context_.cols; at += kDepth) add_products(at, std::min(kDepth, context_.cols - at));
    for (size_t k = 0; k < blocks_.size(); ++k) {
      remove_damping(blocks_[k], systems_[k]);
      for (size_t lane = 0; lane < blocks_[k].count; ++lane) solve(blocks_[k], systems_[k], lane);
    }
  }

 private:
  // Without input a column has no say.
  void load_levels(const LaneRows& rows, size_t c, float* out) const {
    const size_t i = columns_.position[c], g = context_.group_at[i] * kRowLanes;
    if (context_.dead[i]) return;
    const uint8_t* const codes = &rows.codes[i * kRowLanes];
    const float* const zero = &rows.zero[g];
    if (context_.integer)
      for (size_t lane = 0; lane < kRowLanes; ++lane) out[lane] = static_cast<float>(codes[lane]) - zero[lane];
    else
      for (size_t lane = 0; lane < kRowLanes; ++lane) out[lane] = code_value(context_.rounding.spec, {}, codes[lane]);
  }

  // Adds what positions [at, at + depth) contribute to A and b: these components of each u_g L^T and of d L^T.
  void add_products(size_t at, size_t depth) {
    pack(at, depth);
    for (size_t k = 0; k < blocks_.size(); ++k) {
      for (size_t u = 0; u < unknowns_; ++u) {
        const size_t g = u % context_.groups, begin = columns_.begin[g];
        const float* const levels =
            (u < context_.groups ? systems_[k].levels.data() : ones_.data()) + begin * kRowLanes;
        for (size_t r = 0; r < depth; r += kLaneBlock) {
          const size_t count = std::min(kLaneBlock, depth - r);
          const float* rows[kLaneBlock];
          for (size_t i = 0; i < count; ++i) rows[i] = packed_.data() + (r + i) * context_.cols + begin;
          context_.kernels.products(rows, count, levels, seen_[g], &projections_[(u * depth + r) * kRowLanes]);
        }
      }
      std::copy_n(&blocks_[k].residual[at * kRowLanes], depth * kRowLanes,
                  &projections_[unknowns_ * depth * kRowLanes]);
      context_.kernels.gram(projections_.data(), unknowns_ + 1, depth, systems_[k].products.data());
    }
  }

  // Rows [at, at + depth) of L by grouped column: those that any of the rows has, 0 beyond a row's end.
  void pack(size_t at, size_t depth) {
    for (size_t r = 0; r < depth; ++r) {
      ++seen_[context_.group_at[at + r]];
      float* const out = packed_.data() + r * context_.cols;
      for (size_t g = 0; g < context_.groups; ++g)
        gather(context_.inputs.row(at + r), &columns_.position[columns_.begin[g]], seen_[g], out + columns_.begin[g]);
      for (size_t later = at + r + 1; later < at + depth; ++later) out[columns_.place[later]] = 0.0f;
    }
  }

  // A and b are about H without what was added to its diagonal.
  void remove_damping(const LaneRows& rows, BlockSystem& system) const {
    const auto damp = static_cast<float>(context_.inputs.damp);
    for (size_t g = 0; g < context_.groups; ++g) {
      // Products of the scale's levels with themselves, the difference and the min's levels; of those likewise.
      float square[kRowLanes] = {}, own[kRowLanes] = {}, line[kRowLanes] = {}, ones[kRowLanes] = {},
            total[kRowLanes] = {};
      for (size_t c = columns_.begin[g]; c < columns_.begin[g + 1]; ++c) {
        const float* const level = &system.levels[c * kRowLanes];
        const float* const d = &rows.x[columns_.position[c] * kRowLanes];
        for (size_t lane = 0; lane < kRowLanes; ++lane) {
          square[lane] += level[lane] * level[lane];
          own[lane] += d[lane] * level[lane];
        }
        if (!mins_) continue;
        const float* const one = &ones_[c * kRowLanes];
        for (size_t lane = 0; lane < kRowLanes; ++lane) {
          line[lane] += level[lane] * one[lane];
          ones[lane] += one[lane] * one[lane];
          total[lane] += d[lane] * one[lane];
        }
      }
      const size_t scale = g, min = context_.groups + g;
      for (size_t lane = 0; lane < kRowLanes; ++lane) {
        at(system, scale, scale, lane) -= damp * square[lane];
        at(system, unknowns_, scale, lane) -= damp * own[lane];
        if (!mins_) continue;
        at(system, min, scale, lane) -= damp * line[lane];
        at(system, min, min, lane) -= damp * ones[lane];
        at(system, unknowns_, min, lane) -= damp * total[lane];
      }
    }
  }

  static float& at(BlockSystem& system, size_t i, size_t j, size_t lane) {  // i >= j
    return system.products[(i * (i + 1) / 2 + j) * kRowLanes + lane];
  }

  void solve(LaneRows& rows, BlockSystem& system, size_t lane) {
    const QuantSpec& spec = context_.rounding.spec;
    for (size_t i = 0; i < unknowns_; ++i) {
      for (size_t j = 0; j <= i; ++j) equations_.a(i, j) = double{at(system, i, j, lane)};
      equations_.b(i) = double{at(system, unknowns_, i, lane)};
    }
    if (!equations_.factor()) return;
    const auto present = [&](size_t i) -> float& {
      return i < context_.groups ? rows.scale[i * kRowLanes + lane]
                                 : rows.offset[(i - context_.groups) * kRowLanes + lane];
    };
    const auto stored = [&](size_t i, double correction) {
      const auto value = static_cast<float>(double{present(i)} + correction);
      return i < context_.groups ? storable_scale(value, spec.scale_dtype) : storable_min(value, spec.scale_dtype);
    };
    bool legal = true;
    equations_.solve([&](size_t i, double correction) {
      const float value = stored(i, correction);
      legal = legal && std::isfinite(value) && (i >= context_.groups || (value < 0) == (present(i) < 0));
      return double{value} - double{present(i)};
    });
    double magnitude = 0;
    const double change = equations_.change(magnitude);
    if (!legal || !(change < -kLeastGain * magnitude)) return;
    for (size_t i = 0; i < unknowns_; ++i) present(i) = stored(i, equations_.x(i));
    rows.error[lane] += change;
  }

  const LaneContext& context_;
  std::span<LaneRows> blocks_;
  GroupedColumns columns_;
  bool mins_;
  size_t unknowns_;  // scales, then mins
  std::vector<BlockSystem> systems_;
  std::vector<float> ones_;         // [cols, kRowLanes]: levels of a min
  std::vector<size_t> seen_;        // [groups]: columns of each group up to the present position
  std::vector<float> packed_;       // [kDepth, cols]
  std::vector<float> projections_;  // [unknowns + 1, kDepth, kRowLanes]
  RowSystem equations_;
};

}  // namespace

void refit_scales(const LaneContext& context, std::span<LaneRows> blocks) {
  assert(!context.rounding.spec.per_tensor);
  Refit(context, blocks).run();
}

}  // namespace nibble
