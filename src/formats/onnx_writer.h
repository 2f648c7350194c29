#pragma once
#include <onnx.pb.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/files.h"
#include "formats/onnx_model.h"

namespace nibble {

// Writes one ONNX model: contents of initializers go to NAME.data while they are being made, in any order and from
// several threads, the graph follows at the end. Models of at most kEmbedBytes become one file without external data.
// Throws Error(kIo).
class OnnxWriter {
 public:
  static constexpr size_t kEmbedBytes = size_t{64} << 20;

  // `folder`: exists, and is renamed into place by whoever owns it. `file`: "model.onnx". `slots`: bytes of each
  // initializer whose contents are given to write().
  OnnxWriter(std::filesystem::path folder, std::string file, std::vector<size_t> slots,
             size_t embed_bytes = kEmbedBytes);
  // Bytes of `slot` from `offset` within it on. Every byte exactly once.
  void write(size_t slot, size_t offset, std::span<const std::byte> bytes);
  size_t slot_bytes(size_t slot) const { return slots_[slot].bytes; }
  // Initializers of `model` named in `slot_of` get the slots' contents; all others are copied from `source`, where
  // they come from (small ones into the graph itself). Syncs and closes.
  void finish(onnx::ModelProto& model, const std::map<std::string, size_t, std::less<>>& slot_of,
              const OnnxModel& source);

 private:
  struct Slot {
    size_t offset, bytes;
  };
  size_t append(size_t bytes);  // returns its offset

  std::filesystem::path folder_;
  std::string file_;
  std::vector<Slot> slots_;
  size_t end_ = 0, embed_bytes_;
  std::atomic<size_t> unsynced_{0};
  std::unique_ptr<OutputFile> data_;
};

}  // namespace nibble
