#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/kv.h"

namespace nibble::kernels {

// One table per instruction set. Entries never allocate, throw or touch memory outside their arguments; any n >= 0 is
// valid; pointers need no alignment beyond their element's. In-place use is allowed where in and out have the same
// element type.
struct Table {
  std::string_view name;  // "avx2"
  bool (*usable)();       // may this CPU and OS run the entries?

  // Conversions, round to nearest even; bf16 and f16 as bit patterns. Bit-equal in every table (NaN payloads excepted).
  void (*f16_to_f32)(const uint16_t* in, float* out, size_t n) noexcept;
  void (*bf16_to_f32)(const uint16_t* in, float* out, size_t n) noexcept;
  void (*f32_to_f16)(const float* in, uint16_t* out, size_t n) noexcept;
  void (*f32_to_bf16)(const float* in, uint16_t* out, size_t n) noexcept;

  // sum_i w[i] * x[i], float accumulation in a fixed order.
  float (*dot_f32)(const float* w, const float* x, size_t n) noexcept;
  float (*dot_f16)(const uint16_t* w, const float* x, size_t n) noexcept;
  float (*dot_bf16)(const uint16_t* w, const float* x, size_t n) noexcept;

  // y[i] += a * x[i].
  void (*axpy_f32)(float a, const float* x, float* y, size_t n) noexcept;
  void (*axpy_f16)(float a, const uint16_t* x, float* y, size_t n) noexcept;
  void (*axpy_bf16)(float a, const uint16_t* x, float* y, size_t n) noexcept;

  // One tile of a matrix product: acc[t][r] (+)= sum_k x[t][k] * w[k][r] for t < tokens <= tile_tokens, r < tile_rows.
  // w is a packed panel [depth, tile_rows]; x has row stride x_stride; acc has row stride acc_stride.
  // `add` false: acc is overwritten.
  size_t tile_tokens;
  size_t tile_rows;
  void (*gemm_tile)(const float* x, size_t x_stride, const float* w, size_t depth, float* acc, size_t acc_stride,
                    size_t tokens, bool add) noexcept;

  // out[c][r] = in[r][c] for r < rows, c < cols: the packing of a panel for gemm_tile. Strides in elements.
  void (*transpose)(const float* in, size_t in_stride, size_t rows, size_t cols, float* out,
                    size_t out_stride) noexcept;

  // Codes: out[i] = the i-th `bits`-bit field (1..8) of the LSB-first stream `packed`, starting at field `first`.
  void (*unpack_codes)(const uint8_t* packed, int bits, size_t first, size_t n, uint8_t* out) noexcept;
  // out[i] = scale * (codes[i] - zero), the subtraction exact. Bit-equal in every table.
  void (*scale_codes)(const uint8_t* codes, float scale, float zero, float* out, size_t n) noexcept;
  // out[i] = scale * codes[i] + min, two roundings. Bit-equal in every table.
  void (*scale_codes_min)(const uint8_t* codes, float scale, float min, float* out, size_t n) noexcept;

  // out[i] = x[i] * weight[i] / sqrt(mean(x^2) + eps); RMSNorm (Zhang & Sennrich 2019).
  void (*rms_norm)(const float* x, const float* weight, float eps, float* out, size_t n) noexcept;
  // x = softmax(x), in place.
  void (*softmax)(float* x, size_t n) noexcept;
  // log(sum_i exp(x[i])); -inf when n == 0. Double, because the divergence below is a difference of two of these.
  double (*log_sum_exp)(const float* x, size_t n) noexcept;
  // out[i] = gate[i] / (1 + exp(-gate[i])) * up[i]; SwiGLU (Shazeer 2020).
  void (*swiglu)(const float* gate, const float* up, float* out, size_t n) noexcept;
  // sum_i p_i (log p_i - log q_i), p = softmax(ref), q = softmax(x); the two log-sum-exps are given.
  // Terms with p_i = 0 count as 0.
  double (*kl_divergence)(const float* ref, double ref_lse, const float* x, double x_lse, size_t n) noexcept;
  // Index of the largest x; the lowest such index; 0 when n == 0. NaN is never chosen before a number.
  size_t (*argmax)(const float* x, size_t n) noexcept;

  // Smallest and largest of x; {+inf, -inf} when n == 0. A NaN anywhere makes `*lo` NaN.
  void (*min_max)(const float* x, size_t n, float* lo, float* hi) noexcept;
  // codes[i] = clamp(rint(x[i] / scale) + zero, low, high), rint to even, true division. Bit-equal in every table.
  void (*encode)(const float* x, size_t n, float scale, float zero, float low, float high, uint8_t* codes) noexcept;

  // Attention. scores[r][p] = sum_c queries[r][c] * keys[p][c] for r < rows and the 16 positions p of every panel;
  // queries are [rows, keys.width] of row stride query_stride.
  void (*kv_scores)(const KvView& keys, size_t panels, const float* queries, size_t query_stride, size_t rows,
                    float* scores, size_t score_stride) noexcept;
  // sums[r][c] += sum_i weights[r][i] * values[i][c] for r < rows, i < positions, c < values.width.
  void (*kv_weigh)(const KvView& values, size_t positions, const float* weights, size_t weight_stride, size_t rows,
                   float* sums, size_t sum_stride) noexcept;
  // The same keys and values as kF32: out is [panels][width][16] and [positions][width].
  void (*kv_expand_keys)(const KvView& keys, size_t panels, float* out) noexcept;
  void (*kv_expand_values)(const KvView& values, size_t positions, float* out) noexcept;
  // x [blocks * 32] to one code a byte and f16 scales, as kQ4: the best of three scales, then refined by least squares.
  // The scale is NaN where x holds NaN or infinity. Tables may differ where two codes are equally near.
  void (*quantize_q4)(const float* x, size_t blocks, uint8_t* codes, uint16_t* scales) noexcept;
  // A step of the online softmax (Milakov & Gimelshein 2018): *top grows to the largest of itself and x, x becomes
  // exp(x - *top), *sum is rescaled and sum(x) added to it. Returns the factor by which the sum was rescaled.
  float (*softmax_part)(float* x, size_t n, float* top, double* sum) noexcept;
  // Rotates the pairs (head[i], head[i + half_dims]) by the angles whose cosines and sines, [half_dims], are given.
  void (*rope)(float* head, size_t half_dims, const float* cosines, const float* sines) noexcept;
  // x = scale * H x, H the Hadamard matrix of order n (a power of two) in Sylvester's order. H H = n I.
  void (*hadamard)(float* x, size_t n, float scale) noexcept;
};

std::span<const Table* const> available();  // usable on this CPU, best first, "scalar" last
const Table&
active();  // available()[0], or the one named by NIBBLE_ISA; Error(kUsage) when that is unknown or unusable

}  // namespace nibble::kernels
