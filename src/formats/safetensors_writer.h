#pragma once
#include <atomic>
#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/files.h"
#include "formats/named_tensor.h"

namespace nibble {

using SafeTensorSlot = TensorSlot;

// Writes one .safetensors file whose tensors are all known beforehand, in slot order; data may come in any order and
// from several threads. The header is padded with spaces so that data starts at a multiple of 64, and so does every
// tensor whose predecessors allow it: order slots by falling element size to keep all of them aligned. Throws
// Error(kUsage) for slots that the format cannot hold (block types, a name twice), Error(kIo) for a full disk.
class SafeTensorsWriter {
 public:
  SafeTensorsWriter(const std::filesystem::path& path, std::vector<SafeTensorSlot> slots,
                    const std::map<std::string, std::string>& metadata);
  size_t data_bytes() const { return offsets_.back() - offsets_.front(); }
  // Bytes of tensor `slot` starting at byte `offset` within it. Every byte is to be written exactly once.
  void write(size_t slot, size_t offset, std::span<const std::byte> bytes);
  void start_writeback() noexcept { file_.start_writeback(); }
  // Syncs and closes. Every byte must have been written (checked by count).
  void finish();

 private:
  std::vector<SafeTensorSlot> slots_;
  std::string header_;           // the length field and the JSON, padded
  std::vector<size_t> offsets_;  // of each slot's data in the file; one past the end last
  OutputFile file_;              // opened after the slots were found good
  std::atomic<size_t> written_{0};
};

}  // namespace nibble
