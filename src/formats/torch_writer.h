#pragma once
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/named_tensor.h"
#include "formats/zip.h"

namespace nibble {

// Writes a state dict as torch.save does, for torch.load(weights_only=True): an OrderedDict of dense tensors in slot
// order. Data may come in any order and from several threads; memory depends on the number of tensors only.
class TorchWriter {
 public:
  // `aliases`: further entries (name, slot) that share the slot's storage, as tied weights do. Throws Error(kUsage) for
  // a name twice and for block types.
  TorchWriter(const std::filesystem::path& path, const std::vector<TensorSlot>& slots,
              const std::vector<std::pair<std::string, size_t>>& aliases);
  // Bytes of tensor `slot` from byte `offset` within it on. Every byte is to be written exactly once.
  void write(size_t slot, size_t offset, std::span<const std::byte> bytes) { zip_->write(slot, offset, bytes); }
  void start_writeback() noexcept { zip_->start_writeback(); }
  size_t data_bytes() const { return data_bytes_; }
  void finish();  // as ZipWriter's

 private:
  std::vector<std::pair<size_t, std::string>> texts_;  // members that are known from the start
  std::unique_ptr<ZipWriter> zip_;
  size_t data_bytes_ = 0;
};

}  // namespace nibble
