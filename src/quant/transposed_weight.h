#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "quant/quantized_matrix.h"

// How GPTQ and AWQ checkpoints keep one quantized linear: transposed. A weight of [rows, cols] = [out, in] with G
// groups in a row is, under the names MODULE.SUFFIX,
//
//   suffix   dtype  shape                     holds
//   qweight  I32    GPTQ [cols*bits/32, rows]  column r is the LSB-first stream of row r's codes
//                   AWQ  [cols, rows/8]        nibble i of word w is the code of row 8 w + {0, 2, 4, 6, 1, 3, 5, 7}[i]
//   qzeros   I32    GPTQ [G, rows*bits/32]     line g is the stream of that group's zero points (v1: minus one)
//                   AWQ  [G, rows/8]           nibbles as in qweight
//   scales   float  [G, rows]                  F16 by convention
//   g_idx    I32    [cols]                     GPTQ: the group of each column; AutoRound leaves it out
//
// with value = scale * (code - zero). Symmetric weights store 2^(bits-1) as every zero point. Sources: GPTQModel 7.7,
// AutoRound 0.16 and AutoAWQ 0.2.
namespace nibble {

enum class TransposedLayout : uint8_t {
  kGptqV1,  // checkpoint_format "gptq": stores zero - 1; readers disagree about a zero of 0
  kGptqV2,  // "gptq_v2": stores zero
  kAwq,     // version "gemm"
};

// Why the layout, or every reader of it, cannot hold such a weight, ending with the nearest thing that works ("5 bits;
// GPTQ holds 2, 3, 4 and 8: try --bits 4"). Nothing when it can.
std::optional<std::string> transposed_obstacle(TransposedLayout layout, const QuantSpec& spec,
                                               const ActivationSpec& activations, size_t rows, size_t cols,
                                               bool grouped_columns);

struct TransposedSlot {
  std::string_view suffix;  // "qweight"
  DType dtype;
  Shape shape;
};
// The tensors of one weight without an obstacle.
std::vector<TransposedSlot> transposed_slots(TransposedLayout layout, const QuantSpec& spec, size_t rows, size_t cols);

// Turns row slices of one weight without an obstacle into the bytes of its tensors. Rows are collected in tiles of
// about 4 MiB of codes, so that the pieces written are long; a tile goes as soon as it is full. Every byte of every
// slot is given to the sink exactly once by the time finish() returns.
class TransposedEncoder {
 public:
  // `slot` indexes transposed_slots(); `offset` is in bytes within that tensor. May be called from several threads.
  using Sink = std::function<void(size_t slot, size_t offset, std::span<const std::byte> bytes)>;
  static constexpr size_t kTileCodes = size_t{1} << 22;

  TransposedEncoder(TransposedLayout layout, const QuantSpec& spec, size_t rows, size_t cols, bool grouped_columns,
                    size_t tile_codes = kTileCodes);
  // Rows [first, first + slice.rows), each exactly once, in any order. Thread-safe for disjoint rows. A v1 zero point
  // of 0 is raised to 1 together with its group's codes; where the top code is in use Error(kUsage) names the row and
  // the group, and v2.
  void write(size_t first, const QuantizedMatrix& slice, const Sink& sink);
  void finish(const Sink& sink);  // after all rows

 private:
  // Rows [first, first + rows) as they arrive.
  struct Tile {
    size_t first, rows, missing;
    std::vector<uint8_t> codes;  // [rows, cols]
    std::vector<uint8_t> zeros;  // [rows, G]
    std::vector<float> scales;   // [rows, G]
  };
  void flush(Tile& tile, const Sink& sink) const;
  void avoid_zero_points_of_0(Tile& tile) const;

  TransposedLayout layout_;
  QuantSpec spec_;
  size_t rows_, cols_, groups_, tile_rows_;
  bool grouped_;
  std::mutex mutex_;  // of tiles_ and `missing`
  std::map<size_t, std::unique_ptr<Tile>> tiles_;
  std::vector<uint32_t> group_of_;  // [cols]; empty: in order
};

// What a checkpoint's configuration says about one linear.
struct TransposedFormat {
  TransposedLayout layout = TransposedLayout::kGptqV1;
  int bits = 4;                         // 2..8
  size_t group = QuantSpec::kWholeRow;  // columns
  bool symmetric = true;                // what to call a weight all of whose zero points are 2^(bits-1)
  friend bool operator==(const TransposedFormat&, const TransposedFormat&) = default;
};

// One stored weight, checked: every tensor's presence, dtype, shape and byte count, groups, scales finite. Cheap to
// copy; keeps the mapping alive. Immutable, thread-safe.
class TransposedWeight {
 public:
  // Gives MODULE.SUFFIX's bytes, or null when the file has no such tensor. Called by open() only.
  using Find = std::function<const TensorView*(std::string_view suffix)>;

  // The spec is symmetric where `format` says so and every zero point agrees, else asymmetric. Throws Error(kCorrupt or
  // kUnsupported) starting with the offending tensor's full name, MODULE.SUFFIX.
  static TransposedWeight open(std::string_view module, const TransposedFormat& format, const Find& find);

  const QuantSpec& spec() const { return spec_; }
  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t bytes() const { return bytes_; }  // of all its tensors in the file
  // The mapped bytes of all codes: the rows lie across them.
  std::span<const std::byte> code_bytes() const { return codes_.bytes; }
  // Rows [begin, end). A v1 file's stored 2^bits - 1 is a zero point of 0.
  QuantizedMatrix read_codes(size_t begin, size_t end) const;

 private:
  void read_zeros(size_t begin, size_t end, std::vector<uint8_t>& out) const;

  std::string module_;
  TransposedLayout layout_ = TransposedLayout::kGptqV1;
  QuantSpec spec_;
  size_t rows_ = 0, cols_ = 0, groups_ = 0, bytes_ = 0;
  TensorView codes_, zeros_, scales_;
  std::vector<uint32_t> group_of_;
};

}  // namespace nibble
