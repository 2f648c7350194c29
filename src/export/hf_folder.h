#pragma once
#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/files.h"
#include "core/json.h"
#include "formats/safetensors_writer.h"
#include "model/source.h"

namespace nibble {

// A Hugging Face model folder being written: model.safetensors (or shards of at most 5 GB with their index),
// config.json and the source's side files. Appears at its destination in finish(). Memory does not depend on the size
// of the model.
class HfFolder {
 public:
  static constexpr size_t kShardBytes = 5'000'000'000;

  // `slots`: every tensor, in an order that readers will see tensors of one shard near each other. Errors as
  // StagedOutput.
  HfFolder(const std::filesystem::path& out, bool force, std::vector<SafeTensorSlot> slots,
           size_t shard_bytes = kShardBytes);
  // Bytes of tensor `slot` from `offset` within it on. Thread-safe; every byte exactly once.
  void write(size_t slot, size_t offset, std::span<const std::byte> bytes);
  // Syncs the shards, writes config.json, the side files, `more` (name and contents) and the index, renames.
  void finish(const OrderedJson& config, const Source& source, const std::map<std::string, std::string>& more = {});
  size_t data_bytes() const { return data_bytes_; }

 private:
  struct Place {
    size_t shard;
    size_t slot;  // in the shard's writer
  };
  StagedOutput output_;
  std::vector<std::string> names_;        // of all slots
  std::vector<Place> places_;             // of all slots
  std::vector<std::string> shard_files_;  // file names
  std::vector<std::unique_ptr<SafeTensorsWriter>> shards_;
  std::vector<std::atomic<size_t>> unsynced_;  // bytes of each shard written since the last writeback
  size_t data_bytes_ = 0;
};

// Writes config.json and the source's side files into a staging folder.
void write_side_files(const std::filesystem::path& folder, const OrderedJson& config, const Source& source);

// The source's config.json with `dtype` and `tied_embeddings` as the written tensors have them.
OrderedJson updated_config(const Json& source_config, DType dtype, bool tied_embeddings);

}  // namespace nibble
