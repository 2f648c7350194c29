#pragma once
#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/files.h"
#include "core/tensor.h"

namespace nibble {

struct SafeTensor {
  std::string name;
  TensorView view;
};

// One .safetensors file. The header is checked as the format demands: offsets in order, no holes, no overlaps, sizes that
// match dtype and shape, no duplicate names, nothing after the last tensor. Tensors in file (offset) order.
struct SafeTensorsFile {
  std::vector<SafeTensor> tensors;
  std::map<std::string, std::string> metadata;

  static SafeTensorsFile open(const std::filesystem::path& path);
  // For tests and fuzzing: `owner` keeps `bytes` alive.
  static SafeTensorsFile parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner);
};

// Every tensor of a folder: model.safetensors, or the shards that model.safetensors.index.json names (each name must be in the
// shard that the index says; shards are plain file names inside the folder), or the only *.safetensors file there.
std::vector<SafeTensor> open_safetensors_folder(const std::filesystem::path& folder);

struct SafeTensorSlot {
  std::string name;
  DType dtype;
  Shape shape;
};

// Writes one .safetensors file whose tensors are all known beforehand, in slot order; data may come in any order and from
// several threads. The header is padded with spaces so that data starts at a multiple of 64, and so does every tensor whose
// predecessors allow it: order slots by falling element size to keep all of them aligned.
class SafeTensorsWriter {
 public:
  SafeTensorsWriter(const std::filesystem::path& path, std::vector<SafeTensorSlot> slots, const std::map<std::string, std::string>& metadata);
  size_t data_bytes() const;
  // Bytes of tensor `slot` starting at byte `offset` within it.
  void write(size_t slot, size_t offset, std::span<const std::byte> bytes);
  void start_writeback() noexcept { file_.start_writeback(); }
  // Syncs and closes. Every byte must have been written (checked by count).
  void finish();

 private:
  OutputFile file_;
  std::vector<size_t> offsets_;  // of each slot's data in the file; one past the end last
  std::atomic<size_t> written_{0};
};

}  // namespace nibble
