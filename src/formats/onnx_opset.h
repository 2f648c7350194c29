#pragma once
#include <onnx.pb.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace nibble {

// Newer versions of ONNX's own operator set (domain ""), from 13 to 21. Most operators only took in more types or
// optional attributes on the way; those that did not are rewritten or named. Source: Changelog.md of the ONNX project.

// Why the graph cannot be raised to `version`: "node X is a GridSample, whose modes opset 20 renamed"; empty when it
// can, or need not.
std::string opset_obstacle(const onnx::ModelProto& model, int64_t version);
// Raises the version (never lowers it) and the IR version that goes with it, and rewrites nodes whose form changed,
// those in subgraphs too: axes of Reduce... (opset 18) become inputs, Split without sizes gets its number of outputs.
// Functions import operator sets of their own and stay. Returns bytes of the initializers that this takes.
// Precondition: there is no obstacle.
size_t raise_opset(onnx::ModelProto& model, int64_t version);

}  // namespace nibble
