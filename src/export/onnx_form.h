#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "export/exporter.h"
#include "model/onnx_weights.h"

namespace nibble {

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
  virtual std::pair<std::string, int64_t> needs_opset() const { return {"", 0}; }
  virtual void write(size_t first_row, const QuantizedMatrix& rows, const Sink& sink) = 0;
  // After the last row.
  virtual void finish(const Sink&) {}
  // What takes the place of a node that uses the weight; `names` of the parts; `first`: no other node has been replaced
  // for this weight before. The last node returned makes the original's output.
  virtual std::vector<onnx::NodeProto> replace(const onnx::NodeProto& node, std::span<const std::string> names,
                                               bool first) const = 0;

 protected:
  std::vector<Part> parts_;
};

// com.microsoft's MatMulNBits and GatherBlockQuantized; floats where these hold no such spec.
std::unique_ptr<OnnxForm> onnx_packed_form(const OnnxWeight& weight, const QuantSpec& spec, int accuracy_level);
// DequantizeLinear before the node; floats where it holds no such spec.
std::unique_ptr<OnnxForm> onnx_qdq_form(const OnnxWeight& weight, const QuantSpec& spec, int accuracy_level);
// The dequantized values, in the type of the scales and in the order that the node reads.
std::unique_ptr<OnnxForm> onnx_float_form(const OnnxWeight& weight, const QuantSpec& spec);

// An exporter that rewrites the source's graph with the forms that `make_form` makes.
using OnnxFormMaker = std::unique_ptr<OnnxForm> (*)(const OnnxWeight& weight, const QuantSpec& spec,
                                                    int accuracy_level);
std::unique_ptr<Exporter> make_onnx_exporter(const std::filesystem::path& out, bool force, OutputModel model,
                                             OnnxFormMaker make_form);
// What both formats refuse.
void check_onnx(const OutputTensor& tensor);

}  // namespace nibble
