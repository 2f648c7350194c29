#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/named_tensor.h"
#include "formats/safetensors_writer.h"

namespace nibble {

using SafeTensor = NamedTensor;

// One .safetensors file. The header is checked as the format demands: offsets in order, no holes, no overlaps, sizes
// that match dtype and shape, no duplicate names, nothing after the last tensor. Tensors in file (offset) order. Throws
// Error(kCorrupt) for a damaged file, Error(kUnsupported) for element types that are not whole bytes or not known here.
struct SafeTensorsFile {
  std::vector<SafeTensor> tensors;
  std::map<std::string, std::string> metadata;

  static SafeTensorsFile open(const std::filesystem::path& path);
  // For tests and fuzzing: `owner` keeps `bytes` alive.
  static SafeTensorsFile parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner);
};

// Every tensor of a folder: model.safetensors, or the shards that model.safetensors.index.json names (each name must be
// in the shard that the index says; shards are plain file names inside the folder), or the only *.safetensors file
// there, tried in this order. The index decides: tensors of a shard that it does not name are left out. Shards in the
// order of their names.
std::vector<SafeTensor> open_safetensors_folder(const std::filesystem::path& folder);

}  // namespace nibble
