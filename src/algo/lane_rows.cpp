#include "algo/lane_rows.h"

#include <algorithm>
#include <cassert>

#include "algo/group_scale.h"
#include "kernels/kernels.h"
#include "quant/lane_products.h"

namespace nibble {
namespace {

using kernels::kLaneBlock;

bool one_bit_signs(const QuantSpec& spec) { return spec.grid == Grid::kInt && spec.bits == 1 && spec.symmetric; }

// The nearest code of any grid without a min, and what it stands for before scaling.
float nearest_level(const QuantSpec& spec, const GroupScale& map, float target, uint8_t* code) {
  if (one_bit_signs(spec) && map.scale < 0) target = -target;
  encode_group(spec, map, std::span(&target, 1), code);
  return code_value(spec, map, *code);
}

}  // namespace

LaneContext::LaneContext(const Rounding& rounding_, const QuantizedMatrix& grid)
    : rounding(rounding_),
      inputs(*rounding_.inputs),
      cols(grid.cols),
      groups(grid.groups()),
      group_at(grid.cols),
      dead(grid.cols),
      integer(grid.spec.grid == Grid::kInt && !one_bit_signs(grid.spec)),
      kernels(kernels::lane_table(kernels::active())) {
  const size_t size = std::max<size_t>(grid.spec.group_size(cols), 1);
  for (size_t i = 0; i < cols; ++i) {
    const size_t column = inputs.order[i];
    group_at[i] = grid.group_of.empty() ? static_cast<uint32_t>(column / size) : grid.group_of[column];
    dead[i] = inputs.importance[column] == 0;
  }
}

LaneRows::LaneRows(const LaneContext& context, const QuantizedMatrix& q, size_t first_row)
    : first(first_row),
      count(std::min(kRowLanes, q.rows - first_row)),
      x(context.cols * kRowLanes),
      residual(x.size()),
      codes(x.size()),
      scale(context.groups * kRowLanes, 1.0f),
      zero(scale.size()),
      offset(scale.size()),
      error(kRowLanes) {
  const QuantSpec& spec = q.spec;
  for (size_t g = 0; g < context.groups; ++g)
    for (size_t lane = 0; lane < count; ++lane) {
      const size_t from = spec.per_tensor ? 0 : (first + lane) * context.groups + g, to = g * kRowLanes + lane;
      scale[to] = q.scales[from];
      if (spec.mins)
        offset[to] = q.mins[from];
      else if (spec.grid == Grid::kInt)
        zero[to] = static_cast<float>(spec.symmetric ? spec.symmetric_zero() : q.zeros[from]);
    }
  for (size_t lane = 0; lane < count; ++lane)
    for (size_t i = 0; i < context.cols; ++i)
      codes[i * kRowLanes + lane] = q.codes[(first + lane) * q.cols + context.inputs.order[i]];
  measure(context);
}

void LaneRows::load_weights(const LaneContext& context) {
  for (size_t lane = 0; lane < count; ++lane) {
    const float* const row = context.rounding.weight.row(first + lane);
    for (size_t i = 0; i < context.cols; ++i)
      x[i * kRowLanes + lane] = context.dead[i] ? 0.0f : row[context.inputs.order[i]];
  }
}

void LaneRows::round_columns(const LaneContext& context, size_t begin, size_t end) {
  for (size_t at = begin; at < end; at += kLaneBlock) {
    const size_t columns = std::min(kLaneBlock, end - at);
    const float* rows[kLaneBlock];
    for (size_t i = 0; i < columns; ++i) rows[i] = context.inputs.row(at + i);
    float* const sums = residual.data() + at * kRowLanes;
    context.kernels.products(rows, columns, x.data(), at, sums);
    round_block(context, at, columns, rows, at, sums);
  }
}

void LaneRows::round_block(const LaneContext& context, size_t at, size_t columns, const float* const* rows,
                           size_t first_column, float* sums) {
  const QuantSpec& spec = context.rounding.spec;
  const auto top = static_cast<float>((1 << spec.bits) - 1);
  kernels::LaneGrid grids[kLaneBlock];
  for (size_t i = 0; i < columns; ++i) {
    const size_t g = context.group_at[at + i] * kRowLanes;
    grids[i] = {scale.data() + g, zero.data() + g, offset.data() + g};
  }
  float* const differences = x.data() + at * kRowLanes;
  uint8_t* const out = codes.data() + at * kRowLanes;
  if (context.integer) {
    context.kernels.round({rows, first_column, columns, grids, top, differences, sums, out});
  } else {
    for (size_t i = 0; i < columns; ++i) {
      const float diagonal = rows[i][first_column + i], inverse = 1.0f / diagonal;
      for (size_t lane = 0; lane < kRowLanes; ++lane) {
        const size_t k = i * kRowLanes + lane;
        const float level = nearest_level(spec, {grids[i].scale[lane], 0}, differences[k] + sums[k] * inverse, out + k);
        differences[k] -= grids[i].scale[lane] * level;
        sums[k] += diagonal * differences[k];
        for (size_t later = i + 1; later < columns; ++later)
          sums[later * kRowLanes + lane] += rows[later][first_column + i] * differences[k];
      }
    }
  }
  // A column without input has an off-diagonal of 0: its difference went nowhere else.
  for (size_t i = 0; i < columns; ++i)
    if (context.dead[at + i]) {
      std::fill_n(differences + i * kRowLanes, kRowLanes, 0.0f);
      std::fill_n(sums + i * kRowLanes, kRowLanes, 0.0f);
    }
}

float LaneRows::value_at(const LaneContext& context, size_t i, size_t lane) const {
  const size_t g = context.group_at[i] * kRowLanes + lane;
  const uint8_t code = codes[i * kRowLanes + lane];
  const float level =
      context.integer ? static_cast<float>(code) - zero[g] : code_value(context.rounding.spec, {}, code);
  return scale[g] * level + offset[g];
}

// Moves m with (sum over these positions) m L^T = sums of the positions before, by forward substitution.
std::vector<float> LaneRows::compensated(const LaneContext& context, size_t begin, size_t end) const {
  std::vector<float> moves((end - begin) * kRowLanes);
  for (size_t at = begin; at < end; at += kLaneBlock) {
    const size_t columns = std::min(kLaneBlock, end - at);
    const float* rows[kLaneBlock];
    for (size_t i = 0; i < columns; ++i) rows[i] = context.inputs.row(at + i);
    context.kernels.products(rows, columns, x.data(), begin, &moves[(at - begin) * kRowLanes]);
    for (size_t i = at; i < at + columns; ++i) {
      const float* const row = context.inputs.row(i);
      float* const move = &moves[(i - begin) * kRowLanes];
      for (size_t j = begin; j < i; ++j)
        for (size_t lane = 0; lane < kRowLanes; ++lane) move[lane] -= row[j] * moves[(j - begin) * kRowLanes + lane];
      for (size_t lane = 0; lane < kRowLanes; ++lane) move[lane] /= row[i];
    }
  }
  for (size_t k = 0; k < moves.size(); ++k) moves[k] += x[begin * kRowLanes + k];
  return moves;
}

void LaneRows::measure(const LaneContext& context) {
  load_weights(context);
  for (size_t i = 0; i < context.cols; ++i) {
    if (context.dead[i]) continue;
    for (size_t lane = 0; lane < kRowLanes; ++lane) x[i * kRowLanes + lane] -= value_at(context, i, lane);
  }
  multiply_lanes(context.inputs, x.data(), residual.data());
  sum_errors(context);
}

void LaneRows::sum_errors(const LaneContext& context) {
  std::fill(error.begin(), error.end(), 0.0);
  for (size_t i = 0; i < context.cols; ++i)
    for (size_t lane = 0; lane < kRowLanes; ++lane) {
      const double r = double{residual[i * kRowLanes + lane]}, d = double{x[i * kRowLanes + lane]};
      error[lane] += r * r - context.inputs.damp * d * d;
    }
}

void LaneRows::store(const LaneContext& context, size_t lane, QuantizedMatrix& q) const {
  const QuantSpec& spec = q.spec;
  uint8_t* const row = q.codes.data() + (first + lane) * q.cols;
  for (size_t i = 0; i < context.cols; ++i) row[context.inputs.order[i]] = codes[i * kRowLanes + lane];
  if (spec.per_tensor) return;
  for (size_t g = 0; g < context.groups; ++g) {
    const size_t to = (first + lane) * context.groups + g, from = g * kRowLanes + lane;
    q.scales[to] = scale[from];
    if (spec.mins)
      q.mins[to] = offset[from];
    else if (!spec.symmetric)
      q.zeros[to] = static_cast<uint8_t>(zero[from]);
  }
}

}  // namespace nibble
