#pragma once
#include <onnx.pb.h>

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "core/mapped_file.h"
#include "core/tensor.h"

namespace nibble {

// TensorProto.DataType; the values that we name. Others pass through.
namespace onnx_type {
inline constexpr int kFloat = 1, kUint8 = 2, kInt8 = 3, kInt64 = 7, kString = 8, kFloat16 = 10, kBFloat16 = 16,
                     kUint4 = 21, kInt4 = 22, kUint2 = 25;
}
// Bits of an element; 0 for strings and for types that we have not heard of.
size_t onnx_bits(int type);
// "FLOAT", "UINT4", "type 99".
std::string onnx_type_name(int type);
// F32, F16, BF16, I8... where core has the type.
std::optional<DType> onnx_dtype(int type);
int onnx_type_of(DType dtype);  // of F32, F16 and BF16

// The contents of one tensor, little endian, row-major; types below 8 bits packed from the lowest bits on.
struct OnnxTensor {
  int type = 0;
  Shape shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
  bool mapped = false;  // pages of a file, which may be released
};

// An ONNX model on disk: the graph is parsed, contents of tensors stay in the mapped files (the model itself, and those
// that external data names). Opening checks names, types, shapes and sizes of all initializers, and that the graph
// has no cycles and no undefined values. Throws Error(kCorrupt) for damage and for external data that is missing, too
// short or outside of the model's folder, Error(kUnsupported) for models without a graph. Thread-safe.
// Specification: the ONNX project's onnx.proto and "External Data".
class OnnxModel {
 public:
  static std::shared_ptr<const OnnxModel> open(const std::filesystem::path& path);
  // For tests and fuzzing: `owner` keeps `bytes` alive; external data is looked for in `folder`, none when it is empty.
  static std::shared_ptr<const OnnxModel> parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                                                const std::filesystem::path& folder = {});

  const onnx::ModelProto& proto() const { return proto_; }
  const onnx::GraphProto& graph() const { return proto_.graph(); }
  const std::filesystem::path& path() const { return path_; }
  // Of the default domain ("") or another; 0 when the model does not import it.
  int64_t opset(std::string_view domain) const;
  // Contents of an initializer or of an attribute's tensor. Errors name the tensor. Not for strings.
  OnnxTensor tensor(const onnx::TensorProto& tensor) const;
  // File names that external data of initializers names.
  std::set<std::string> external_files() const;

 private:
  OnnxModel() = default;
  void check() const;
  std::shared_ptr<const MappedFile> external(const std::string& location) const;

  onnx::ModelProto proto_;
  std::filesystem::path path_, folder_;
  std::span<const std::byte> bytes_;
  std::shared_ptr<const void> owner_;
  bool mapped_ = false;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::shared_ptr<const MappedFile>> external_;
};

// Gives a tensor whose contents lie elsewhere (in a mapped file, in external data) contents of its own. Errors as
// OnnxModel::tensor().
void inline_contents(onnx::TensorProto& tensor, const OnnxModel& model);
// The same for all tensors in a node's attributes, graphs inside of it included.
void inline_contents(onnx::NodeProto& node, const OnnxModel& model);

// "layers.0/MatMul", or the first output's name for nodes without one.
std::string onnx_node_name(const onnx::NodeProto& node);
// The attribute, or null.
const onnx::AttributeProto* find_attribute(const onnx::NodeProto& node, std::string_view name);
int64_t int_attribute(const onnx::NodeProto& node, std::string_view name, int64_t absent);
float float_attribute(const onnx::NodeProto& node, std::string_view name, float absent);

}  // namespace nibble
