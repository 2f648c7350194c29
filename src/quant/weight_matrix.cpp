#include "quant/weight_matrix.h"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/threads.h"
#include "kernels/bf16.h"
#include "kernels/gemm.h"
#include "kernels/kernels.h"
#include "kernels/row_products.h"
#include "quant/activations.h"
#include "quant/grid_products.h"

namespace nibble {
namespace {

// Up to here, dotting rows with every token beats packing panels for gemm: for dense weights, for packed ones, which
// are dequantized a row at a time, and for gemm_bf16.
constexpr size_t kFewTokensDense = 32, kFewTokensPacked = 8, kFewTokensBf16 = 8;
// Columns of a packed row that are dequantized at a time: 4 KiB of stack.
constexpr size_t kStretch = 1024;

template <class Element>
const Element* dense_row(const DenseMatrix& dense, size_t row) {
  return reinterpret_cast<const Element*>(dense.data) + row * dense.cols;
}

// y[t][r] for every token and rows [begin, end): one dot product each, straight from the stored weights.
using RowProducts = void (*)(const WeightMatrix& w, MatrixView<const float> x, const float* bias, MatrixView<float> y,
                             size_t begin, size_t end) noexcept;

void add_bias(const float* bias, MatrixView<float> y, size_t begin, size_t end) noexcept {
  if (bias == nullptr) return;
  for (size_t t = 0; t < y.rows; ++t)
    for (size_t r = begin; r < end; ++r) y.row(t)[r] += bias[r];
}

template <class Element, void (*kernels::RowTable::*Products)(const kernels::DenseRows&) noexcept>
void dense_products(const WeightMatrix& w, MatrixView<const float> x, const float* bias, MatrixView<float> y,
                    size_t begin, size_t end) noexcept {
  const auto products = kernels::row_table(kernels::active()).*Products;
  for (size_t t = 0; t < x.rows; t += kernels::kFewTokens) {  // again from the cache for the next ones
    const size_t tokens = std::min(kernels::kFewTokens, x.rows - t);
    products({dense_row<Element>(*w.dense(), begin), end - begin, x.cols, x.row(t), tokens, x.stride, y.row(t) + begin,
              y.stride});
  }
  add_bias(bias, y, begin, end);
}

void table_products(const WeightMatrix& w, MatrixView<const float> x, const float* bias, MatrixView<float> y,
                    size_t begin, size_t end) noexcept {
  grid_products(*w.packed(), x, y, begin, end);
  add_bias(bias, y, begin, end);
}

void packed_products(const WeightMatrix& w, MatrixView<const float> x, const float* bias, MatrixView<float> y,
                     size_t begin, size_t end) noexcept {
  const auto dot = kernels::active().dot_f32;
  const PackedMatrix& packed = *w.packed();
  float stretch[kStretch];
  for (size_t r = begin; r < end; ++r) {
    for (size_t t = 0; t < x.rows; ++t) y.row(t)[r] = bias != nullptr ? bias[r] : 0.0f;
    for (size_t c = 0; c < x.cols; c += kStretch) {
      const size_t count = std::min(kStretch, x.cols - c);
      packed.load_row(r, c, count, stretch);
      for (size_t t = 0; t < x.rows; ++t) y.row(t)[r] += dot(stretch, x.row(t) + c, count);
    }
  }
}

bool is_dense(const WeightMatrix& w, DType dtype) { return w.dense() != nullptr && w.dense()->dtype == dtype; }

// The ways to multiply few tokens; the first that accepts the weight runs. The last accepts every packed matrix.
struct FewTokens {
  bool (*accepts)(const WeightMatrix& w);
  size_t most;  // tokens
  RowProducts products;
  MatrixView<const float> (*prepare)(const PackedMatrix& w, MatrixView<const float> x) = nullptr;  // x for `products`
};
constexpr FewTokens kFewTokenPaths[] = {
    {[](const WeightMatrix& w) { return is_dense(w, DType::kF32); }, kFewTokensDense,
     dense_products<float, &kernels::RowTable::f32>},
    {[](const WeightMatrix& w) { return is_dense(w, DType::kF16); }, kFewTokensDense,
     dense_products<uint16_t, &kernels::RowTable::f16>},
    {[](const WeightMatrix& w) { return is_dense(w, DType::kBF16); }, kFewTokensDense,
     dense_products<uint16_t, &kernels::RowTable::bf16>},
    {[](const WeightMatrix& w) { return w.packed() != nullptr && accepts_grid_products(*w.packed()); },
     kFewTokensPacked, table_products, arrange_for_grid},
    {[](const WeightMatrix& w) { return w.packed() != nullptr; }, kFewTokensPacked, packed_products},
};

// Null where gemm is faster.
const FewTokens* find_few(const WeightMatrix& w, size_t tokens) {
  for (const FewTokens& path : kFewTokenPaths)
    if (path.accepts(w)) return tokens <= (w.bf16_products ? kFewTokensBf16 : path.most) ? &path : nullptr;
  return nullptr;
}

void multiply_few(const FewTokens& path, const WeightMatrix& w, MatrixView<const float> x, const float* bias,
                  MatrixView<float> y) {
  if (path.prepare != nullptr) x = path.prepare(*w.packed(), x);
  // About 32,768 weights: long enough to hide the cost of handing out a range, short enough to share the work evenly.
  const size_t grain = std::max<size_t>(1, 32768 / std::max<size_t>(1, w.cols()));
  parallel_for(w.rows(), grain, [&](size_t begin, size_t end) { path.products(w, x, bias, y, begin, end); });
}

// gemm reads a stretch of many rows, then their next one: too short a run for the hardware to foresee, so the next
// stretch is asked for when [begin, begin + count) is read.
void prefetch_next(const WeightMatrix& w, size_t row, size_t begin, size_t count) noexcept {
  const DenseMatrix* dense = w.dense();
  if (dense == nullptr || dense->cols - begin <= count) return;
  constexpr size_t kLine = 64;
  const size_t element = info(dense->dtype).block_bytes;
  const std::byte* next = dense->data + (row * dense->cols + begin + count) * element;
  const size_t bytes = std::min(count, dense->cols - begin - count) * element;
  for (size_t i = 0; i < bytes; i += kLine) __builtin_prefetch(next + i, 0, 2);
}

// A RowLoader for WeightMatrix.
void load_for_gemm(const void* self, size_t row, size_t begin, size_t count, float* out) noexcept {
  const auto& w = *static_cast<const WeightMatrix*>(self);
  prefetch_next(w, row, begin, count);
  w.load_row(row, begin, count, out);
}

// A Bf16Loader for WeightMatrix.
void load_for_gemm_bf16(const void* self, size_t row, size_t begin, size_t count, uint16_t* out) noexcept {
  const auto& w = *static_cast<const WeightMatrix*>(self);
  prefetch_next(w, row, begin, count);
  if (is_dense(w, DType::kBF16)) {
    std::copy_n(dense_row<uint16_t>(*w.dense(), row) + begin, count, out);
    return;
  }
  float stretch[kStretch];
  for (size_t done = 0; done < count; done += kStretch) {
    const size_t n = std::min(kStretch, count - done);
    w.load_row(row, begin + done, n, stretch);
    kernels::active().f32_to_bf16(stretch, out + done, n);
  }
}

// x after the weight's activation quantizer, in `storage`.
MatrixView<const float> quantize_activations(const ActivationSpec& spec, MatrixView<const float> x,
                                             std::vector<float>& storage) {
  if (storage.size() < x.rows * x.cols) storage.resize(x.rows * x.cols);
  const MatrixView<float> out = matrix(storage.data(), x.rows, x.cols);
  parallel_for(x.rows, 1, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) quantize_token(spec, x.row(t), out.row(t), x.cols);
  });
  return out;
}

// x rounded to bf16, in `storage`, where x may lie already.
MatrixView<const float> round_to_bf16(MatrixView<const float> x, std::vector<float>& storage) {
  if (storage.size() < x.rows * x.cols) storage.resize(x.rows * x.cols);
  const MatrixView<float> out = matrix(storage.data(), x.rows, x.cols);
  uint16_t stretch[kStretch];
  for (size_t t = 0; t < x.rows; ++t) {
    for (size_t c = 0; c < x.cols; c += kStretch) {
      const size_t n = std::min(kStretch, x.cols - c);
      kernels::active().f32_to_bf16(x.row(t) + c, stretch, n);
      kernels::active().bf16_to_f32(stretch, out.row(t) + c, n);
    }
  }
  return out;
}

}  // namespace

WeightMatrix::WeightMatrix(DenseMatrix dense) : storage_(std::move(dense)) {
  const DType dtype = std::get<DenseMatrix>(storage_).dtype;
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBF16)
    throw Error(ErrorKind::kUnsupported, cat("a dense weight is F32, F16 or BF16, not ", info(dtype).name));
}

size_t WeightMatrix::rows() const {
  if (int8() != nullptr) return int8()->rows();
  return dense() != nullptr ? dense()->rows : packed()->rows;
}

size_t WeightMatrix::cols() const {
  if (int8() != nullptr) return int8()->cols();
  return dense() != nullptr ? dense()->cols : packed()->cols;
}

size_t WeightMatrix::bytes() const {
  if (int8() != nullptr) return int8()->bytes();
  return dense() != nullptr ? dense()->rows * byte_size(dense()->dtype, dense()->cols) : packed()->bytes();
}

void WeightMatrix::load_row(size_t row, size_t begin, size_t count, float* out) const noexcept {
  if (const PackedMatrix* matrix = packed()) return matrix->load_row(row, begin, count, out);
  if (const Int8Matrix* matrix = int8()) return matrix->load_row(row, begin, count, out);
  const DenseMatrix& matrix = *dense();
  switch (matrix.dtype) {
    case DType::kF16:
      return kernels::active().f16_to_f32(dense_row<uint16_t>(matrix, row) + begin, out, count);
    case DType::kBF16:
      return kernels::active().bf16_to_f32(dense_row<uint16_t>(matrix, row) + begin, out, count);
    default:
      assert(matrix.dtype == DType::kF32);
      std::copy_n(dense_row<float>(matrix, row) + begin, count, out);
  }
}

void multiply(const WeightMatrix& w, MatrixView<const float> x, const float* bias, MatrixView<float> y) {
  assert(x.rows == y.rows && x.cols == w.cols() && y.cols == w.rows());
  const FewTokens* const few = find_few(w, x.rows);
  // Decoding runs this for every linear of every token: its buffer stays. A prompt's may be large and goes.
  static thread_local std::vector<float> kept;
  std::vector<float> once;
  if (w.activations.mode != ActivationSpec::Mode::kNone)
    x = quantize_activations(w.activations, x, x.rows <= kFewTokensDense ? kept : once);
  if (const Int8Matrix* matrix = w.int8(); matrix != nullptr && !w.float_products) return multiply(*matrix, x, bias, y);
  if (few != nullptr) {
    multiply_few(*few, w, w.bf16_products ? round_to_bf16(x, kept) : x, bias, y);
    return;
  }
  if (w.bf16_products)
    kernels::gemm_bf16(x, {&w, load_for_gemm_bf16}, bias, y);
  else
    kernels::gemm(x, {&w, load_for_gemm}, bias, y);
}

}  // namespace nibble
