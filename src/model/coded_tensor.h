#pragma once
#include <algorithm>
#include <memory>
#include <string>

#include "core/error.h"
#include "core/mapped_file.h"
#include "model/source.h"

namespace nibble {

// StoredTensor::read_rows() of a tensor that has codes: a slice of rows at a time.
inline void read_coded_rows(const StoredTensor& tensor, size_t begin, size_t end, float* out) {
  const size_t cols = tensor.cols(), step = slice_rows(cols);
  for (size_t first = begin; first < end; first += step) {
    const size_t last = std::min(end, first + step);
    dequantize(tensor.read_codes(first, last), matrix(out + (first - begin) * cols, last - first, cols));
  }
}

// A logical tensor over a weight that some file layout keeps as codes. `Weight` has spec(), rows(), cols(), bytes(),
// read_codes(begin, end), packed() and code_bytes(begin, end) as CompressedWeight does.
template <class Weight>
class CodedTensor final : public StoredTensor {
 public:
  // `shape` begins with the weight's rows; `dtype` is what its floats would have; `more_bytes` are those of tensors
  // beside the weight's own.
  CodedTensor(std::string name, Shape shape, Weight weight, DType dtype, const ActivationSpec& activations = {},
              size_t more_bytes = 0)
      : weight_(std::move(weight)) {
    name_ = std::move(name);
    shape_ = std::move(shape);
    bytes_ = weight_.bytes() + more_bytes;
    dtype_ = dtype;
    spec_ = weight_.spec();
    activations_ = activations;
    type_name_ = spec_->grid == Grid::kInt ? cat("int", spec_->bits) : std::string(nibble::name(spec_->grid));
  }
  void read_rows(size_t begin, size_t end, float* out) const override { read_coded_rows(*this, begin, end, out); }
  QuantizedMatrix read_codes(size_t begin, size_t end) const override { return weight_.read_codes(begin, end); }
  PackedMatrix packed() const override { return weight_.packed(); }
  void release(size_t begin, size_t end) const noexcept override { release_pages(weight_.code_bytes(begin, end)); }

 private:
  Weight weight_;
};

// For MODULE.weight, a matrix.
template <class Weight>
std::unique_ptr<StoredTensor> coded_tensor(const std::string& module, Weight weight, DType dtype,
                                           const ActivationSpec& activations = {}, size_t more_bytes = 0) {
  Shape shape = {weight.rows(), weight.cols()};
  return std::make_unique<CodedTensor<Weight>>(module + ".weight", std::move(shape), std::move(weight), dtype,
                                               activations, more_bytes);
}

}  // namespace nibble
