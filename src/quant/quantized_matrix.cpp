#include "quant/quantized_matrix.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <string_view>

#include "core/checked.h"
#include "core/error.h"
#include "quant/decode.h"

namespace nibble {
namespace {

void expect_count(std::string_view what, size_t found, size_t wanted) {
  if (found != wanted) throw Error(ErrorKind::kCorrupt, cat(what, ": found ", found, " values, expected ", wanted));
}

void expect_finite(std::string_view what, const std::vector<float>& values) {
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      throw Error(ErrorKind::kCorrupt, cat(what, ": value ", i, " is ", values[i], ", not a finite number"));
}

template <class T>
void expect_below(std::string_view what, const std::vector<T>& values, size_t limit) {
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i] >= limit)
      throw Error(ErrorKind::kCorrupt, cat(what, ": value ", i, " is ", +values[i], ", expected less than ", limit));
}

}  // namespace

void dequantize(const QuantizedMatrix& q, MatrixView<float> out) {
  assert(out.rows == q.rows && out.cols == q.cols);
  for (size_t r = 0; r < q.rows; ++r)
    decode_columns(row_groups(q, r), q.codes.data() + r * q.cols, 0, q.cols, out.row(r));
}

void validate(const QuantizedMatrix& q) {
  try {
    q.spec.validate();
  } catch (const Error& error) {
    throw Error(ErrorKind::kCorrupt, error.what());
  }
  const bool zero_points = !q.spec.symmetric && !q.spec.mins;
  const size_t groups = q.spec.per_tensor ? 1 : checked_mul(q.rows, q.groups(), "number of groups");
  expect_count("codes", q.codes.size(), checked_mul(q.rows, q.cols, "number of codes"));
  expect_count("scales", q.scales.size(), groups);
  expect_count("zero points", q.zeros.size(), zero_points ? groups : 0);
  expect_count("mins", q.mins.size(), q.spec.mins ? groups : 0);
  if (!q.group_of.empty()) expect_count("groups of columns", q.group_of.size(), q.cols);
  const size_t codes = size_t{1} << q.spec.bits;
  if (codes < 256) expect_below("codes", q.codes, codes);
  if (codes < 256) expect_below("zero points", q.zeros, codes);
  expect_below("groups of columns", q.group_of, q.groups());
  expect_finite("scales", q.scales);
  expect_finite("mins", q.mins);
}

}  // namespace nibble
