#include "formats/shards.h"

#include <algorithm>
#include <map>
#include <string>
#include <system_error>

#include "core/json.h"
#include "core/text.h"

namespace fs = std::filesystem;

namespace nibble {
namespace {

// An index comes with the model: it must not reach outside the folder.
void check_shard_name(const std::string& shard, std::string_view extension) {
  const bool plain = shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos && !shard.starts_with('.');
  if (!plain || !shard.ends_with(extension))
    throw Error(ErrorKind::kCorrupt, cat("shard ", quote(shard), " is not the plain name of a ", extension, " file"));
}

std::map<std::string, std::vector<std::string>> names_by_shard(const fs::path& index_path, std::string_view extension) {
  const Json index = read_json_file(index_path);
  return with_context([&] { return index_path.string(); },
                      [&] {
                        const Json& weight_map = get(index, "weight_map");
                        if (!weight_map.is_object() || weight_map.empty())
                          throw Error(ErrorKind::kCorrupt,
                                      "'weight_map' should be an object that gives the shard of every tensor");
                        std::map<std::string, std::vector<std::string>> names;
                        for (const auto& [name, shard] : weight_map.items()) {
                          if (!shard.is_string())
                            throw Error(ErrorKind::kCorrupt, cat("the shard of ", quote(name), " should be a string"));
                          names[shard.get<std::string>()].push_back(name);
                        }
                        for (const auto& [shard, unused] : names) check_shard_name(shard, extension);
                        return names;
                      });
}

}  // namespace

std::vector<NamedTensor> open_shards(const fs::path& folder, std::string_view index, std::string_view extension,
                                     const std::function<std::vector<NamedTensor>(const fs::path&)>& open) {
  std::vector<NamedTensor> tensors;
  for (auto& [shard, names] : names_by_shard(folder / index, extension)) {
    const fs::path path = folder / shard;
    std::error_code ignored;
    if (!fs::exists(path, ignored))
      throw Error(ErrorKind::kIo, cat(path.string(), " is missing; ", index, " says that it holds ", names.size(),
                                      " tensors: download it too"));
    std::vector<NamedTensor> stored = open(path);
    std::sort(names.begin(), names.end());
    size_t found = 0;
    std::vector<bool> seen(names.size());
    for (NamedTensor& tensor : stored) {
      const auto at = std::lower_bound(names.begin(), names.end(), tensor.name);
      if (at == names.end() || *at != tensor.name) continue;
      seen[static_cast<size_t>(at - names.begin())] = true;
      ++found;
      tensors.push_back(std::move(tensor));
    }
    if (found != names.size()) {
      const auto missing = static_cast<size_t>(std::find(seen.begin(), seen.end(), false) - seen.begin());
      throw Error(ErrorKind::kCorrupt, cat(path.string(), ": tensor ", quote(names[missing]), " is missing, though ",
                                           index, " says that it is here; download both files again"));
    }
  }
  return tensors;
}

}  // namespace nibble
