#include "model/attention.h"

#include <algorithm>
#include <vector>

#include "core/checked.h"
#include "core/threads.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

// From this many tokens on, keys and values are packed into panels for the matrix kernel; fewer do not pay for the
// packing.
constexpr size_t kTileTokens = 4;
constexpr size_t kTileRows = 128;    // query rows (tokens x heads of a group) of one block, about
constexpr size_t kValueDepth = 256;  // positions in one panel of values

struct Layer {
  const SlabCache& cache;
  size_t layer, past, group, window;
  MatrixView<const float> queries;
  MatrixView<float> out;

  size_t first_seen(size_t position) const { return window == 0 || position < window ? 0 : position - window + 1; }
};

// Grows only: after the first long pass nothing is allocated.
float* scratch(size_t floats) {
  thread_local std::vector<float> buffer;
  if (buffer.size() < floats) buffer.resize(floats);
  return buffer.data();
}

float dot(const kernels::Table& kernels, const CacheHead& head, size_t position, const float* query) {
  const std::byte* row = head.row(position);
  switch (head.dtype) {
    case DType::kF16:
      return kernels.dot_f16(reinterpret_cast<const uint16_t*>(row), query, head.head_dim);
    case DType::kBF16:
      return kernels.dot_bf16(reinterpret_cast<const uint16_t*>(row), query, head.head_dim);
    default:
      return kernels.dot_f32(reinterpret_cast<const float*>(row), query, head.head_dim);
  }
}

void axpy(const kernels::Table& kernels, const CacheHead& head, size_t position, float weight, float* out) {
  const std::byte* row = head.row(position);
  switch (head.dtype) {
    case DType::kF16:
      return kernels.axpy_f16(weight, reinterpret_cast<const uint16_t*>(row), out, head.head_dim);
    case DType::kBF16:
      return kernels.axpy_bf16(weight, reinterpret_cast<const uint16_t*>(row), out, head.head_dim);
    default:
      return kernels.axpy_f32(weight, reinterpret_cast<const float*>(row), out, head.head_dim);
  }
}

// One query head of one token, straight from the cache.
void attend_row(const Layer& layer, size_t token, size_t head) {
  const auto& kernels = kernels::active();
  const CacheHead keys = layer.cache.keys(layer.layer, head / layer.group),
                  values = layer.cache.values(layer.layer, head / layer.group);
  const size_t position = layer.past + token, first = layer.first_seen(position), seen = position + 1 - first;
  const float* query = layer.queries.row(token) + head * keys.head_dim;
  float* out = layer.out.row(token) + head * keys.head_dim;
  float* scores = scratch(seen);
  for (size_t i = 0; i < seen; ++i) scores[i] = dot(kernels, keys, first + i, query);
  kernels.softmax(scores, seen);
  std::fill_n(out, keys.head_dim, 0.0f);
  for (size_t i = 0; i < seen; ++i) axpy(kernels, values, first + i, scores[i], out);
}

// Tokens [begin, end) of all the query heads that share one kv head, as two matrix products with the softmax in
// between.
void attend_block(const Layer& layer, size_t begin, size_t end, size_t kv_head) {
  const auto& kernels = kernels::active();
  const CacheHead keys = layer.cache.keys(layer.layer, kv_head), values = layer.cache.values(layer.layer, kv_head);
  const size_t dim = keys.head_dim, width = kernels.tile_rows, rows = (end - begin) * layer.group;
  const size_t first = layer.first_seen(layer.past + begin), seen = layer.past + end - first;
  const size_t score_stride = round_up(seen, width), out_stride = round_up(dim, width);

  float* queries = scratch(rows * (dim + score_stride + out_stride) + width * std::max(dim, kValueDepth) + dim);
  float* scores = queries + rows * dim;
  float* sums = scores + rows * score_stride;
  float* panel = sums + rows * out_stride;
  float* row = panel + width * std::max(dim, kValueDepth);

  for (size_t r = 0; r < rows; ++r)
    std::copy_n(layer.queries.row(begin + r / layer.group) + (kv_head * layer.group + r % layer.group) * dim, dim,
                queries + r * dim);

  for (size_t p = 0; p < seen; p += width) {
    const size_t count = std::min(width, seen - p);
    for (size_t k = 0; k < count; ++k) {
      load_columns(keys, first + p + k, 0, dim, row);
      for (size_t d = 0; d < dim; ++d) panel[d * width + k] = row[d];
    }
    if (count < width)
      for (size_t d = 0; d < dim; ++d) std::fill_n(panel + d * width + count, width - count, 0.0f);
    for (size_t r = 0; r < rows; r += kernels.tile_tokens)
      kernels.gemm_tile(queries + r * dim, dim, panel, dim, scores + r * score_stride + p, score_stride,
                        std::min(kernels.tile_tokens, rows - r), false);
  }

  for (size_t r = 0; r < rows; ++r) {
    const size_t position = layer.past + begin + r / layer.group;
    const size_t low = layer.first_seen(position) - first, high = position + 1 - first;
    float* line = scores + r * score_stride;
    std::fill(line, line + low, 0.0f);
    kernels.softmax(line + low, high - low);
    std::fill(line + high, line + score_stride, 0.0f);
  }

  for (size_t p = 0; p < seen; p += kValueDepth) {
    const size_t depth = std::min(kValueDepth, seen - p);
    for (size_t d = 0; d < dim; d += width) {
      const size_t count = std::min(width, dim - d);
      for (size_t k = 0; k < depth; ++k) {
        load_columns(values, first + p + k, d, count, panel + k * width);
        std::fill_n(panel + k * width + count, width - count, 0.0f);
      }
      for (size_t r = 0; r < rows; r += kernels.tile_tokens)
        kernels.gemm_tile(scores + r * score_stride + p, score_stride, panel, depth, sums + r * out_stride + d,
                          out_stride, std::min(kernels.tile_tokens, rows - r), p != 0);
    }
  }

  for (size_t r = 0; r < rows; ++r)
    std::copy_n(sums + r * out_stride, dim,
                layer.out.row(begin + r / layer.group) + (kv_head * layer.group + r % layer.group) * dim);
}

}  // namespace

void attend(const SlabCache& cache, size_t layer, size_t past, size_t heads, size_t window,
            MatrixView<const float> queries, MatrixView<float> out) {
  const size_t group = heads / cache.kv_heads();
  const Layer work{cache, layer, past, group, window, queries, out};
  const size_t tokens = queries.rows;
  if (tokens < kTileTokens) {
    parallel_for(tokens * heads, 1, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) attend_row(work, i / heads, i % heads);
    });
    return;
  }
  const size_t block = std::max<size_t>(1, kTileRows / group), blocks = ceil_div(tokens, block);
  parallel_for(blocks * cache.kv_heads(), 1, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      const size_t first = i / cache.kv_heads() * block;
      attend_block(work, first, std::min(tokens, first + block), i % cache.kv_heads());
    }
  });
}

}  // namespace nibble
