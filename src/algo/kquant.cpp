#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "algo/algorithm.h"
#include "algo/block_scales.h"
#include "algo/group_scale.h"
#include "core/error.h"
#include "kernels/block_fit.h"
#include "kernels/kernels.h"
#include "quant/ggml_blocks.h"

namespace nibble {
namespace {

using kernels::kFitGroups;

constexpr AlgorithmOption kOptions[] = {
    {"spread", 0.25, 0, 1, "how far the scales tried go beyond and below the one that covers a group's range"},
    {"candidates", 12, 1, 100, "scales tried on each side of a group's range; a third of them at 8 bits"},
    {"refits", 2, 0, 20, "rounds of least-squares scale for fixed codes, then new codes; a third of them at 8 bits"},
    {"rounds", 2, 0, 20, "K-quants: rounds of new block scales for fixed integers, then new integers"},
};

// What a search has to know of a block type.
struct BlockKind {
  DType dtype;
  size_t group;
  TwoLevelRange range;  // groups is 1 where a group's scale is an F16 of its own
};

constexpr BlockKind kKinds[] = {
    {DType::kQ4_0, 32, {1, 0, 0, 0, 0}},       {DType::kQ4_1, 32, {1, 0, 0, 0, 0}},
    {DType::kQ5_0, 32, {1, 0, 0, 0, 0}},       {DType::kQ5_1, 32, {1, 0, 0, 0, 0}},
    {DType::kQ8_0, 32, {1, 0, 0, 0, 0}},       {DType::kIQ4_NL, 32, {1, 0, 0, 0, 0}},
    {DType::kQ2_K, 16, {16, 0, 15, 15, 0}},    {DType::kQ3_K, 16, {16, -32, 31, 0, 0}},
    {DType::kQ4_K, 32, {8, 0, 63, 63, 0}},     {DType::kQ5_K, 32, {8, 0, 63, 63, 0}},
    {DType::kQ6_K, 16, {16, -128, 127, 0, 0}}, {DType::kIQ4_XS, 32, {8, -32, 31, 0, 0}},
};

const BlockKind* find_kind(const QuantSpec& spec) {
  const auto dtype = ggml_type_for(spec, 256);
  if (!dtype) return nullptr;
  for (const BlockKind& kind : kKinds)
    if (kind.dtype == *dtype && kind.group == spec.group && ggml_spec(*dtype)->bits == spec.bits) return &kind;
  return nullptr;
}

// Scales for the blocks of GGML's types. The weighted search for each group and the weights are those of llama.cpp's
// quantizer (ggml-quants.c): h_j = importance_j sqrt(sigma^2 + w_j^2), sigma^2 twice the mean square of the block (of
// the row, where blocks have one group); without importance sigma + |w_j|. K-quants' second level is
// round_to_two_levels().
class KQuant final : public Algorithm {
 public:
  explicit KQuant(const AlgorithmSettings& settings)
      : spread_(settings.find("spread")->second),
        candidates_(static_cast<int>(settings.find("candidates")->second)),
        refits_(static_cast<int>(settings.find("refits")->second)),
        rounds_(static_cast<int>(settings.find("rounds")->second)) {}

  InputUse input_use() const override { return InputUse::kImportance; }

  QuantSpec spec_for(const QuantSpec& spec) const override {
    if (!find_kind(spec))
      throw Error(ErrorKind::kUsage, cat("kquant makes the blocks of GGUF's types, not ", describe(spec),
                                         "; use --format gguf:TYPE, or another algorithm"));
    return spec;
  }

  QuantizedMatrix quantize(const Rounding& rounding) const override;

 private:
  // At 8 bits every scale tried is near the best, and time is what reading and writing takes.
  static int effort(const QuantSpec& spec, int most) { return spec.bits == 8 ? most / 3 : most; }
  std::vector<float> factors(const QuantSpec& spec) const;

  double spread_;
  int candidates_, refits_, rounds_;
};

// range / factor is the scale to try: see BlockFit::search.
std::vector<float> KQuant::factors(const QuantSpec& spec) const {
  std::vector<float> out;
  const int candidates = std::max(effort(spec, candidates_), 1);
  // The factor itself first: weights that lie on such a grid already stay there.
  const auto around = [&](double factor) {
    if (candidates % 2 == 0) out.push_back(static_cast<float>(factor));
    for (int i = 0; i < candidates; ++i) {
      const double place = candidates == 1 ? 0 : 2.0 * i / (candidates - 1) - 1;
      out.push_back(static_cast<float>(factor * (1 + spread_ * place)));
    }
  };
  const double half = spec.symmetric_zero();
  if (spec.grid == Grid::kIQ4NL) {
    around(-127), around(113);
  } else if (spec.symmetric) {
    around(-half), around(half - 1);
  } else {
    around(2 * half - 1);
  }
  return out;
}

// sigma^2 in mean squares. What llama.cpp has for Q3_K to Q5_K; it errs less than 1 at every type, by the inputs alone.
constexpr float kSigma = 2;

// n is a multiple of 16. Several sums, so that one need not wait for the other.
float sum_of_squares(const float* w, size_t n) {
  std::array<float, 16> sums{};
  for (size_t i = 0; i < n; i += sums.size())
    for (size_t k = 0; k < sums.size(); ++k) sums[k] += w[i + k] * w[i + k];
  return std::accumulate(sums.begin(), sums.end(), 0.0f);
}

// Sixteen groups at a time, consecutive in the slice; short of sixteen at its end, where the first one fills the gap.
class Batches {
 public:
  Batches(const Rounding& rounding, const BlockKind& kind)
      : rounding_(rounding), kind_(kind), x_(kind.group * kFitGroups), h_(x_.size()) {
    // K-quants: of each block; others: of each row.
    unit_groups_ = kind.range.groups > 1 ? kind.range.groups : row_groups();
    const size_t n = unit_groups_ * kind.group, row_parts = rounding.weight.cols / n;
    for (size_t part = 0; part < rounding.weight.rows * row_parts; ++part) {
      const float* const w = rounding.weight.row(part / row_parts) + part % row_parts * n;
      const float square = sum_of_squares(w, n);
      unit_.push_back(square > 0 ? std::sqrt(static_cast<float>(n) / (kSigma * square)) : 1.0f);
    }
    if (!rounding.inputs) return;
    importance_ = rounding.inputs->importance;
    double sum = 0;
    for (const float value : importance_) sum += double{value};
    // Columns without input count a little, so that their scale is not left to chance.
    const double mean = sum > 0 ? sum / static_cast<double>(importance_.size()) : 1;
    for (float& value : importance_) value = static_cast<float>(double{value} / mean + 1e-6);
  }

  size_t row_groups() const { return rounding_.weight.cols / kind_.group; }
  size_t groups() const { return rounding_.weight.rows * row_groups(); }
  const float* x() const { return x_.data(); }
  const float* h() const { return h_.data(); }

  void load(const kernels::BlockFit& kernel, size_t first, size_t count) {
    kernels::FitSource source;
    for (size_t lane = 0; lane < kFitGroups; ++lane) {
      const size_t group = first + (lane < count ? lane : 0), column = group % row_groups() * kind_.group;
      source.weights[lane] = rounding_.weight.row(group / row_groups()) + column;
      source.importance[lane] = importance_.empty() ? nullptr : importance_.data() + column;
      source.unit[lane] = unit_[group / unit_groups_];
    }
    kernel.arrange(source, kind_.group, x_.data(), h_.data());
  }

 private:
  const Rounding& rounding_;
  const BlockKind& kind_;
  std::vector<float> importance_;  // relative to its mean; empty: unknown
  std::vector<float> x_, h_;       // [group, kFitGroups]
  std::vector<float> unit_;        // 1 / sigma
  size_t unit_groups_ = 1;         // groups that share one
};

QuantizedMatrix KQuant::quantize(const Rounding& rounding) const {
  const QuantSpec& spec = rounding.spec;
  BlockKind kind = *find_kind(spec);
  kind.range.rounds = rounds_;
  const bool two_levels = kind.range.groups > 1;
  const kernels::BlockFit& kernel = kernels::block_fit(kernels::active());
  const std::vector<float> factors = this->factors(spec);
  const auto half = static_cast<float>(spec.symmetric_zero());

  QuantizedMatrix q;
  q.spec = spec;
  q.rows = rounding.weight.rows;
  q.cols = rounding.weight.cols;
  q.codes.resize(q.rows * q.cols);
  q.scales.resize(q.rows * q.groups());
  if (spec.mins) q.mins.resize(q.scales.size());
  Batches batches(rounding, kind);
  std::vector<uint8_t> codes(kind.group * kFitGroups);
  for (size_t first = 0; first < batches.groups(); first += kFitGroups) {
    const size_t count = std::min(kFitGroups, batches.groups() - first);
    batches.load(kernel, first, count);
    kernels::FitGroups groups{batches.x(),
                              batches.h(),
                              kind.group,
                              spec.grid == Grid::kInt ? nullptr : grid_levels(spec.grid).data(),
                              spec.symmetric ? -half : 0.0f,
                              spec.symmetric ? half - 1 : 2 * half - 1,
                              spec.mins,
                              !two_levels};
    kernels::FitMap map;
    kernel.search(groups, factors.data(), factors.size(), effort(spec, refits_), &map);
    if (two_levels) {
      round_to_two_levels(kernel, groups, kind.range, map);
    } else {
      for (size_t g = 0; g < count; ++g) {
        if (map.scale[g] != 0) map.scale[g] = storable_scale(map.scale[g], spec.scale_dtype);
        map.min[g] = storable_min(map.min[g], spec.scale_dtype);
      }
    }
    kernel.encode(groups, map, codes.data());
    for (size_t g = 0; g < count; ++g) {
      q.scales[first + g] = map.scale[g];
      if (spec.mins) q.mins[first + g] = map.min[g];
    }
    std::copy_n(codes.begin(), count * kind.group, q.codes.data() + first * kind.group);
  }
  return q;
}

}  // namespace

extern const AlgorithmEntry kquant_algorithm;
const AlgorithmEntry kquant_algorithm = {
    .name = "kquant",
    .summary =
        "scales as the blocks of GGUF's types hold them (--format gguf), with the least weighted error; weights come "
        "from the inputs' mean squares, or from the weights themselves without data",
    .options = kOptions,
    .make = [](const AlgorithmSettings& settings) -> std::unique_ptr<Algorithm> {
      return std::make_unique<KQuant>(settings);
    },
};

}  // namespace nibble
