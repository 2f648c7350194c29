#pragma once
#include <filesystem>
#include <functional>
#include <string_view>
#include <vector>

#include "formats/named_tensor.h"

namespace nibble {

// Every tensor that an index file (FOLDER/INDEX, {"weight_map": {tensor: shard}}) names, from its shards in the order
// of their names. Each tensor must be in the shard that the index says; shards are plain file names that end with
// `extension`, inside the folder. Tensors of a shard that the index does not name are left out.
std::vector<NamedTensor> open_shards(const std::filesystem::path& folder, std::string_view index,
                                     std::string_view extension,
                                     const std::function<std::vector<NamedTensor>(const std::filesystem::path&)>& open);

}  // namespace nibble
