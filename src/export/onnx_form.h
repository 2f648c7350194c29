#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "export/exporter.h"
#include "model/onnx_weights.h"

namespace nibble {

// A quantized weight that a graph is to hold.
struct OnnxQuantized {
  const OnnxWeight& weight;
  const QuantSpec& spec;
  const ActivationSpec& activations;  // kStatic: with scale and zero point
  int accuracy_level;
  bool tensor_ranges;  // of dynamic inputs; see OutputModel
  int64_t opset;       // of the graph
};

// The name of a value or constant that is not in the source's graph, until OnnxSplice gives it the final one.
inline std::string onnx_new(const std::string& name) { return name.starts_with('\x01') ? name : '\x01' + name; }

// What takes the place of a node. The last node makes the original's output; what else is made has names from
// onnx_new(). The same such name in several replacements means the same value (the rounded input of two products),
// which comes once.
struct OnnxReplacement {
  std::vector<onnx::NodeProto> nodes;
  std::vector<onnx::TensorProto> constants;  // small ones, with raw_data
};

// How one quantized weight is held by a graph: initializers, and nodes that use them. write() may be called from
// several threads for different rows.
class OnnxForm {
 public:
  // An initializer: `name` is appended to the weight's.
  struct Part {
    std::string suffix;
    int type;
    Shape shape;
    size_t bytes;
  };
  // Bytes of part `part` from `offset` within it on.
  using Sink = std::function<void(size_t part, size_t offset, std::span<const std::byte> bytes)>;

  virtual ~OnnxForm() = default;
  const std::vector<Part>& parts() const { return parts_; }
  // What the rest of the graph must import: "" or "com.microsoft", with its version.
  virtual std::vector<std::pair<std::string, int64_t>> needs_opsets() const { return {}; }
  virtual void write(size_t first_row, const QuantizedMatrix& rows, const Sink& sink) = 0;
  // After the last row.
  virtual void finish(const Sink&) {}
  // What takes the place of a node that uses the weight; `names` of the parts.
  virtual OnnxReplacement replace(const onnx::NodeProto& node, std::span<const std::string> names) const = 0;

 protected:
  std::vector<Part> parts_;
};

// com.microsoft's MatMulNBits, MatMulBnb4 and GatherBlockQuantized; floats where these hold no such spec.
std::unique_ptr<OnnxForm> onnx_packed_form(const OnnxQuantized& quantized);
// DequantizeLinear before the node; floats where it holds no such spec.
std::unique_ptr<OnnxForm> onnx_qdq_form(const OnnxQuantized& quantized);
// MatMulBnb4, or null where it does not hold the weight (onnx_table_block()).
std::unique_ptr<OnnxForm> onnx_bnb4_form(const OnnxWeight& weight, const QuantSpec& spec);
// Bytes of its initializers.
size_t onnx_bnb4_bytes(const QuantSpec& spec, size_t block, size_t rows, size_t cols);
// The dequantized values, in the type of the scales and in the order that the node reads.
std::unique_ptr<OnnxForm> onnx_float_form(const OnnxWeight& weight, const QuantSpec& spec);
// Products of 8-bit integers, for weights with quantized inputs. `qdq`: as QuantizeLinear and DequantizeLinear around
// the float product, else as operators on integers.
std::unique_ptr<OnnxForm> onnx_integer_form(const OnnxQuantized& quantized, bool qdq);
// Bytes of its initializers, those of its inputs' range left out.
size_t onnx_integer_bytes(const QuantSpec& spec, size_t rows, size_t cols, bool qdq);

// The node with a float weight, `value`, instead of its own: [inputs, outputs] when `transposed`, else [outputs,
// inputs] or a table. Operators on packed weights become those on floats. Throws Error(kUnsupported) for a MatMul that
// is to read [outputs, inputs].
std::vector<onnx::NodeProto> onnx_with_floats(const onnx::NodeProto& node, const std::string& value, bool transposed);
// Does the form for floats or dequantized ones keep [inputs, outputs]?
inline bool onnx_reads_transposed(const OnnxWeight& weight) {
  return weight.op == OnnxWeight::Op::kMatMul || weight.op == OnnxWeight::Op::kMatMulNBits ||
         weight.op == OnnxWeight::Op::kMatMulBnb4;
}
// The value that a product adds to its outputs, or "".
std::string onnx_bias(const onnx::NodeProto& node);
// Appends `product`, which is to take the place of `node`, and an Add of that node's bias where it has one. What they
// make is named here.
void add_onnx_bias(onnx::NodeProto product, const onnx::NodeProto& node, std::vector<onnx::NodeProto>& nodes);
void set_onnx_int(onnx::NodeProto& node, const char* name, size_t value);

// An exporter that rewrites the source's graph with the forms that `make_form` makes.
using OnnxFormMaker = std::unique_ptr<OnnxForm> (*)(const OnnxQuantized& quantized);
std::unique_ptr<Exporter> make_onnx_exporter(const std::filesystem::path& out, bool force, OutputModel model,
                                             OnnxFormMaker make_form);
// What both formats refuse.
void check_onnx(const OutputTensor& tensor);
inline bool quantizes_inputs(const OutputTensor& tensor) {
  return tensor.spec && tensor.activations.mode != ActivationSpec::Mode::kNone;
}

}  // namespace nibble
