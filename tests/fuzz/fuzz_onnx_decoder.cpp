#include <cstddef>
#include <cstdint>
#include <span>

#include "core/error.h"
#include "model/onnx_interpreter.h"
#include "model/onnx_structure.h"

// Seeds: *.onnx

// Any bytes: an Error, or the parts of a decoder; and a graph that can be computed, or an Error.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto attempt = [](const auto& body) {
    try {
      body();
    } catch (const nibble::Error&) {
    }
  };
  attempt([&] {
    const auto model = nibble::OnnxModel::parse(std::as_bytes(std::span(data, size)), nullptr);
    if (model->graph().node_size() > 500) return;
    const nibble::OnnxGraphIndex index(model->graph());
    const auto weights = nibble::find_onnx_weights(*model, index);
    for (const auto& output : model->graph().output())
      attempt([&] { nibble::find_onnx_structure(*model, index, weights, output.name()); });
    nibble::OnnxInterpreter interpreter(model, index, weights);
    for (const auto& input : model->graph().input()) interpreter.feed(input.name(), {{1, 2}, {1, 0}, true});
    interpreter.run();
  });
  return 0;
}
