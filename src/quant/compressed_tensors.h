#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "quant/packed_matrix.h"
#include "quant/quantized_matrix.h"

// The tensors in which a compressed-tensors checkpoint (schema 0.20) keeps one quantized linear or embedding, whose
// unquantized form would be MODULE.weight, [rows, cols] with G = spec.groups(cols). Names are MODULE.SUFFIX:
//
//   format            suffix             dtype        shape                       when
//   pack-quantized    weight_packed      I32          [rows, ceil(cols*bits/32)]  LSB-first stream of our unsigned
//   codes
//                     weight_shape       I64          [2]                         rows, cols
//   int-quantized     weight             I8           [rows, cols]                code - 2^(bits-1)
//   float-quantized   weight             F8_E4M3      [rows, cols]                codes are the bit patterns
//   static inputs     input_scale        scale_dtype  [1]
//                     input_zero_point   I8           [1]                         asymmetric; zero - 2^(bits-1)
//   all               weight_scale       scale_dtype  [rows, G], or [1]           [1] when per tensor
//   pack-quantized    weight_zero_point  I32          [ceil(rows*bits/32), G]     asymmetric; zeros packed along
//   dimension 0 (per tensor) and  weight_zero_point  I8           as weight_scale             asymmetric; zero -
//   2^(bits-1) int-quantized pack-quantized    weight_g_idx       I32          [cols]                      only with
//   group_of pack-quantized    weight_min         scale_dtype  as weight_scale             only with spec.mins;
//   nibble's own
//
// "naive-quantized" is laid out like int- or float-quantized. Grids and options that the schema has no words for (NF4,
// FP4, IQ4_NL, 1-bit symmetric, mins, short last groups, group_of) use the pack-quantized tensors under quant_method
// "nibble".
namespace nibble {

// "pack-quantized", "int-quantized" (8-bit integers with quantized inputs), "float-quantized" or "naive-quantized" (FP8
// with and without quantized inputs): how we write such a weight.
std::string_view compressed_format(const QuantSpec& spec, const ActivationSpec& activations);
// Why the compressed-tensors schema cannot describe such a weight, for people ("nf4 is not a type of the schema");
// nothing when it can. A model with one such weight is written with quant_method "nibble".
std::optional<std::string> schema_obstacle(const QuantSpec& spec, const ActivationSpec& activations, size_t cols);

struct CompressedSlot {
  std::string_view suffix;  // "weight_packed"
  DType dtype;
  Shape shape;
};

// The tensors of one weight, widest elements first except that the codes lead. `grouped_columns`: with group_of.
std::vector<CompressedSlot> compressed_slots(const QuantSpec& spec, const ActivationSpec& activations, size_t rows,
                                             size_t cols, bool grouped_columns = false);
// Sum of their bytes.
size_t compressed_bytes(const QuantSpec& spec, const ActivationSpec& activations, size_t rows, size_t cols,
                        bool grouped_columns = false);

// Turns row slices of one weight into the bytes of its tensors. Every byte of every slot is given to the sink exactly
// once by the time finish() returns. Holds one byte per zero point until then; one row of scratch per write().
class CompressedEncoder {
 public:
  // `slot` indexes slots(); `offset` is in bytes within that tensor. May be called from several threads at once.
  using Sink = std::function<void(size_t slot, size_t offset, std::span<const std::byte> bytes)>;

  CompressedEncoder(const QuantSpec& spec, const ActivationSpec& activations, size_t rows, size_t cols,
                    bool grouped_columns = false);
  const std::vector<CompressedSlot>& slots() const { return slots_; }
  // Rows [first, first + slice.rows), each exactly once, in any order. Thread-safe for disjoint rows. The slice must
  // have the encoder's spec and columns (kUsage otherwise).
  void write(size_t first, const QuantizedMatrix& slice, const Sink& sink);
  // After all rows: what needs the whole matrix (packed zero points, the one scale of per-tensor grids, shape, g_idx).
  // Throws Error(kUsage) when slices disagreed about the per-tensor scale or group_of.
  void finish(const Sink& sink);

 private:
  size_t slot(std::string_view suffix) const;  // index, or slots_.size()

  QuantSpec spec_;
  ActivationSpec activations_;
  size_t rows_;
  size_t cols_;
  bool packed_;  // codes as a bit stream, otherwise a byte each
  std::vector<CompressedSlot> slots_;
  std::vector<uint8_t> zeros_;      // [rows, G] until finish(); empty when symmetric
  std::vector<float> row_scales_;   // [rows]: each row's idea of the per-tensor scale
  std::vector<float> row_mins_;     // [rows]: likewise
  std::vector<uint32_t> group_of_;  // [cols], of the slice with row 0
};

// One stored weight, checked: every tensor's presence, dtype, shape and byte count, scales finite. Cheap to copy; keeps
// the mapping alive. Immutable, thread-safe.
class CompressedWeight {
 public:
  // Gives MODULE.SUFFIX's bytes, or null when the file has no such tensor. Called by open() only.
  using Find = std::function<const TensorView*(std::string_view suffix)>;

  // `spec` is what the config says (bits, group, per_tensor, symmetric, grid, mins); scale_dtype is taken from the
  // file. The layout is told from the tensors present (weight_packed, or weight in I8 / F8_E4M3). Throws Error(kCorrupt
  // or kUnsupported) starting with the offending tensor's full name, MODULE.SUFFIX.
  static CompressedWeight open(std::string_view module, const QuantSpec& spec, const Find& find);
  // `activations` as the config says, with the scale and zero point of MODULE's tensors where they are static; their
  // bytes are added to `bytes`. Throws as open().
  static ActivationSpec inputs(std::string_view module, ActivationSpec activations, const Find& find, size_t& bytes);
  // Is MODULE stored quantized at all? (A config may target modules that were left alone.)
  static bool present(const Find& find);

  const QuantSpec& spec() const { return spec_; }  // complete
  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t bytes() const { return bytes_; }  // of all its tensors in the file
  // The mapped bytes of the codes of rows [begin, end), for madvise.
  std::span<const std::byte> code_bytes(size_t begin, size_t end) const;

  // Rows [begin, end).
  QuantizedMatrix read_codes(size_t begin, size_t end) const;
  // The whole weight. Codes stay in the mapping (pack-quantized, FP8) or are copied (I8); the rest is copied.
  PackedMatrix packed() const;

 private:
  void read_scales(const TensorView& view, size_t begin, size_t end, std::vector<float>& out) const;
  void read_zeros(size_t begin, size_t end, std::vector<uint8_t>& out) const;

  std::string module_;
  QuantSpec spec_;
  size_t rows_ = 0;
  size_t cols_ = 0;
  size_t bytes_ = 0;
  size_t row_bytes_ = 0;  // of codes_
  TensorView codes_;
  TensorView scales_;
  std::optional<TensorView> zeros_;
  std::optional<TensorView> mins_;
  std::vector<uint32_t> group_of_;
};

}  // namespace nibble
