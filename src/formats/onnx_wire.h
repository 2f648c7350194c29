#pragma once
#include <cstddef>
#include <span>
#include <string>

namespace nibble {

// A serialized ONNX ModelProto without the contents of its tensors: every TensorProto.raw_data of kInlineBytes or more,
// at any depth (initializers, attributes, subgraphs, functions), is replaced by mapped_offset and mapped_length, its
// place in `model`. A parser then copies the graph alone. Throws Error(kCorrupt) with the offset for bytes that are no
// protobuf messages, and for graphs nested more than 64 deep.
// Encoding: protobuf's documentation, "Encoding".
inline constexpr size_t kInlineBytes = 256;
std::string without_tensor_data(std::span<const std::byte> model);

}  // namespace nibble
