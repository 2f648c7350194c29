#include "quant/mxfp4_weight.h"

#include <algorithm>
#include <cmath>

#include "core/checked.h"
#include "core/error.h"

namespace nibble {

Mxfp4Weight Mxfp4Weight::open(const StoredParts& parts, std::string_view codes, std::string_view scales) {
  Mxfp4Weight w;
  w.scales_ = parts.get(scales);
  const Shape& groups = w.scales_.shape;
  if (groups.size() < 2 || element_count(groups) == 0)
    parts.corrupt(scales, cat("has shape ", describe(groups), ", expected the scales of a matrix"));
  parts.get(scales, DType::kU8, groups);
  // The exponent 255 stands for NaN.
  if (const auto bad = std::find(w.scales_.bytes.begin(), w.scales_.bytes.end(), std::byte{255});
      bad != w.scales_.bytes.end())
    parts.corrupt(scales, cat("value ", bad - w.scales_.bytes.begin(), " is not a number; the file is damaged"));
  Shape expected = groups;
  expected.push_back(kGroup / 2);
  if (parts.get(codes).shape.size() == groups.size()) {
    expected = groups;
    expected.back() = checked_mul(groups.back(), kGroup / 2, "a row of codes");
  }
  w.codes_ = parts.get(codes, DType::kU8, expected);
  w.shape_ = groups;
  w.shape_.back() = checked_mul(groups.back(), kGroup, "a row");
  return w;
}

// A bf16 holds every power of two that E8M0 has.
QuantSpec Mxfp4Weight::spec() const {
  return {.bits = 4, .group = kGroup, .grid = Grid::kFP4, .scale_dtype = DType::kBF16};
}

std::vector<float> Mxfp4Weight::row_scales(size_t begin, size_t end) const {
  const size_t groups = cols() / kGroup;
  std::vector<float> out((end - begin) * groups);
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = std::ldexp(1.0f, static_cast<int>(scales_.bytes[begin * groups + i]) - 127);
  return out;
}

QuantizedMatrix Mxfp4Weight::read_codes(size_t begin, size_t end) const {
  QuantizedMatrix q{.spec = spec(), .rows = end - begin, .cols = cols()};
  q.codes.resize(q.rows * q.cols);
  const auto bytes = code_bytes(begin, end);
  unpack_codes(reinterpret_cast<const uint8_t*>(bytes.data()), 4, 0, q.codes.size(), q.codes.data());
  q.scales = row_scales(begin, end);
  return q;
}

PackedMatrix Mxfp4Weight::packed() const {
  PackedMatrix p;
  p.spec = spec();
  p.rows = rows();
  p.cols = cols();
  p.codes = reinterpret_cast<const uint8_t*>(codes_.bytes.data());
  p.row_stride = cols() / 2;
  p.owner = codes_.owner;
  p.scales = row_scales(0, rows());
  return p;
}

std::span<const std::byte> Mxfp4Weight::code_bytes(size_t begin, size_t end) const {
  const size_t row = cols() / 2;
  return codes_.bytes.subspan(begin * row, (end - begin) * row);
}

}  // namespace nibble
