#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "quant/input_stats.h"
#include "quant/quantized_matrix.h"

namespace nibble {

// Rows of a weight whose rounding is learned (AutoRound, Cheng et al. 2023): with y = (w - offset) / s + zero + shift +
// v,
//   q = clamp(rint(y), 0, top),   value = s (q - zero) + offset,   s = scale * stretch,
// v in [-1/2, 1/2] for each weight and stretch for each group are to be found; shift, an integer, makes v = 0 give the
// codes that one starts from. Integer grids. Columns are in the order of the InputFactor.
class SoftRounding {
 public:
  // `start` has the same rows as `weight`; its codes and scales are where v = 0, stretch = 1 stand.
  SoftRounding(MatrixView<const float> weight, const QuantizedMatrix& start, size_t first_row, size_t rows,
               const InputFactor& inputs);

  // Sets codes(), errors() and what gradients() needs from v and stretch.
  void forward();
  // The derivatives of sum of errors() by v and stretch, [rows, cols] and [rows, groups]. rint counts as the identity
  // where it stays within the codes; beyond, nothing depends on v.
  void gradients(std::vector<float>& by_v, std::vector<float>& by_stretch);

  size_t rows() const { return rows_; }
  size_t groups() const { return groups_; }
  std::vector<float>& v() { return v_; }                         // [rows, cols]
  std::vector<float>& stretch() { return stretch_; }             // [rows, groups]
  const std::vector<double>& errors() const { return errors_; }  // [rows], d H d^T of each row's d = value - w
  // Copies row r's codes and scales, as they are now, to row `to` of q.
  void store(size_t r, QuantizedMatrix& q, size_t to) const;

 private:
  float scale_of(size_t r, size_t group) const;
  void expand(size_t r);

  const InputFactor& inputs_;
  const QuantSpec& spec_;
  size_t rows_, cols_, groups_;
  float top_;
  std::vector<uint32_t> group_of_;                      // [cols], by position
  std::vector<float> live_;                             // [cols], by position: 0 where no input ever was
  std::vector<float> weight_, shift_, v_;               // [rows, cols], by position
  std::vector<float> scale_, zero_, offset_, stretch_;  // [rows, groups]
  std::vector<uint8_t> codes_;                          // [rows, cols], by position
  std::vector<float> difference_, outputs_;             // [rows, cols]
  std::vector<double> errors_;
  std::vector<float> row_scale_, row_inverse_, row_zero_, row_offset_, row_term_;  // [cols]
};

}  // namespace nibble
