#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "formats/onnx_model.h"

namespace nibble {

// A graph that ONNX Runtime has loaded, on the CPU with nibble's number of threads.
class OnnxSession {
 public:
  virtual ~OnnxSession() = default;
  // The wanted outputs for one set of inputs, in the order of their names. Inputs that are aligned() are not copied.
  // Throws Error(kUnsupported) with ONNX Runtime's own words where it fails, and for values that are no tensors of
  // numbers. One call at a time.
  virtual std::vector<OnnxTensor> run(const std::vector<std::pair<std::string, OnnxTensor>>& inputs,
                                      const std::vector<std::string>& outputs) = 0;
};

// The tensor, or a copy that starts where ONNX Runtime wants it.
OnnxTensor aligned(OnnxTensor tensor);

// ONNX Runtime's shared library, opened when it is needed: nothing of it is there at build time. Its C API is a table
// of functions to which its maintainers only append (onnxruntime_c_api.h).
class OnnxRuntime {
 public:
  // `place`: the library, or a folder that holds it: its own, an unpacked release, a Python environment. Empty: the
  // same in the environment variable NIBBLE_ORT, else the active Python environment ($VIRTUAL_ENV, that of the python3
  // of $PATH, $PYTHONPATH, the user's packages), else what the system's loader finds. Throws Error(kUsage) saying where
  // it looked, or that the library found is none or is too old.
  static std::shared_ptr<const OnnxRuntime> open(const std::string& place);
  virtual ~OnnxRuntime() = default;

  // "1.22.0" and the file.
  virtual const std::string& version() const = 0;
  virtual const std::filesystem::path& path() const = 0;
  // Of a serialized ModelProto that needs no other file. Throws Error(kUnsupported) with ONNX Runtime's own words.
  virtual std::unique_ptr<OnnxSession> load(const std::string& model) const = 0;
};

}  // namespace nibble
