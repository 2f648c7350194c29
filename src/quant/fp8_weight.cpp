#include "quant/fp8_weight.h"

#include <algorithm>

#include "core/checked.h"
#include "core/error.h"

namespace nibble {

bool Fp8Weight::present(const StoredParts& parts) {
  const TensorView* weight = parts.find(".weight");
  return weight != nullptr && weight->dtype == DType::kF8E4M3;
}

Fp8Weight Fp8Weight::open(const StoredParts& parts, std::string_view scales, std::optional<Block> block) {
  Fp8Weight w;
  w.codes_ = parts.get(".weight");
  if (w.codes_.shape.size() != 2 || w.codes_.shape[0] == 0 || w.codes_.shape[1] == 0)
    parts.corrupt(".weight", cat("has shape ", describe(w.codes_.shape), ", expected a matrix"));
  parts.get(".weight", DType::kF8E4M3, w.codes_.shape);
  const Shape shape = parts.get(scales).shape;
  w.scales_ = parts.floats(scales);
  w.spec_ = {.bits = 8, .group = QuantSpec::kWholeRow, .grid = Grid::kFP8};
  if (block) {
    const Shape expected = {ceil_div(w.rows(), block->height), ceil_div(w.cols(), block->width)};
    if (shape != expected)
      parts.corrupt(scales, cat("has shape ", describe(shape), ", blocks of ", block->height, " x ", block->width,
                                " need ", describe(expected)));
    w.spec_.group = block->width;
    w.height_ = block->height;
  } else if (w.scales_.size() == 1) {
    w.spec_.per_tensor = true;
  } else if (shape != Shape{w.rows()} && shape != Shape{w.rows(), 1}) {
    parts.corrupt(scales,
                  cat("has shape ", describe(shape), ", expected one value, or one for each of ", w.rows(), " rows"));
  }
  w.bytes_ = w.codes_.bytes.size() + parts.get(scales).bytes.size();
  return w;
}

std::vector<float> Fp8Weight::row_scales(size_t begin, size_t end) const {
  if (spec_.per_tensor) return scales_;
  const size_t groups = spec_.groups(cols());
  std::vector<float> out;
  out.reserve((end - begin) * groups);
  for (size_t r = begin; r < end; ++r) {
    const auto row = scales_.begin() + static_cast<std::ptrdiff_t>(r / height_ * groups);
    out.insert(out.end(), row, row + static_cast<std::ptrdiff_t>(groups));
  }
  return out;
}

QuantizedMatrix Fp8Weight::read_codes(size_t begin, size_t end) const {
  QuantizedMatrix q{.spec = spec_, .rows = end - begin, .cols = cols()};
  const auto bytes = code_bytes(begin, end);
  const auto* first = reinterpret_cast<const uint8_t*>(bytes.data());
  q.codes.assign(first, first + bytes.size());
  q.scales = row_scales(begin, end);
  return q;
}

PackedMatrix Fp8Weight::packed() const {
  PackedMatrix p;
  p.spec = spec_;
  p.rows = rows();
  p.cols = cols();
  p.codes = reinterpret_cast<const uint8_t*>(codes_.bytes.data());
  p.row_stride = cols();
  p.owner = codes_.owner;
  p.scales = row_scales(0, rows());
  return p;
}

std::span<const std::byte> Fp8Weight::code_bytes(size_t begin, size_t end) const {
  return codes_.bytes.subspan(begin * cols(), (end - begin) * cols());
}

}  // namespace nibble
