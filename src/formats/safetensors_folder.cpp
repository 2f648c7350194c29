#include <algorithm>
#include <map>
#include <system_error>

#include "core/json.h"
#include "core/text.h"
#include "formats/safetensors.h"

namespace fs = std::filesystem;

namespace nibble {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// An index comes with the model: it must not reach outside the folder.
void check_shard_name(const std::string& shard) {
  const bool plain = shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos && !shard.starts_with('.');
  if (!plain || !shard.ends_with(".safetensors"))
    throw Error(ErrorKind::kCorrupt, cat("shard ", quote(shard), " is not the plain name of a .safetensors file"));
}

std::map<std::string, std::vector<std::string>> names_by_shard(const fs::path& index_path) {
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
                        for (const auto& [shard, unused] : names) check_shard_name(shard);
                        return names;
                      });
}

std::vector<SafeTensor> open_sharded(const fs::path& folder) {
  const fs::path index_path = folder / kIndex;
  std::vector<SafeTensor> tensors;
  for (auto& [shard, names] : names_by_shard(index_path)) {
    const fs::path path = folder / shard;
    std::error_code ignored;
    if (!fs::exists(path, ignored))
      throw Error(ErrorKind::kIo, cat(path.string(), " is missing; ", kIndex, " says that it holds ", names.size(),
                                      " tensors: download it too"));
    SafeTensorsFile file = SafeTensorsFile::open(path);
    std::sort(names.begin(), names.end());
    size_t found = 0;
    std::vector<bool> seen(names.size());
    for (SafeTensor& tensor : file.tensors) {
      const auto at = std::lower_bound(names.begin(), names.end(), tensor.name);
      if (at == names.end() || *at != tensor.name) continue;
      seen[static_cast<size_t>(at - names.begin())] = true;
      ++found;
      tensors.push_back(std::move(tensor));
    }
    if (found != names.size()) {
      const auto missing = static_cast<size_t>(std::find(seen.begin(), seen.end(), false) - seen.begin());
      throw Error(ErrorKind::kCorrupt, cat(path.string(), ": tensor ", quote(names[missing]), " is missing, though ",
                                           kIndex, " says that it is here; download both files again"));
    }
  }
  return tensors;
}

// What to tell about a folder without any .safetensors file.
Error no_safetensors(const fs::path& folder, const std::vector<std::string>& files) {
  const auto has = [&](std::string_view name) { return std::find(files.begin(), files.end(), name) != files.end(); };
  const auto gguf = std::find_if(files.begin(), files.end(), [](const std::string& f) { return f.ends_with(".gguf"); });
  std::string hint = "give a folder with model.safetensors, or a .gguf file";
  if (has("pytorch_model.bin") || has("pytorch_model.bin.index.json"))
    hint = "its weights are in pytorch_model.bin, which nibble does not read: save the model again with safetensors";
  else if (gguf != files.end())
    hint = cat("it holds ", *gguf, ": give that file itself");
  return {ErrorKind::kUnsupported, cat(folder.string(), " has no .safetensors file; ", hint)};
}

}  // namespace

std::vector<SafeTensor> open_safetensors_folder(const fs::path& folder) {
  std::error_code error;
  std::vector<std::string> files;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    files.push_back(it->path().filename().string());
  if (error) throw io_error(cat("cannot read the folder ", folder.string()), error.value());
  std::sort(files.begin(), files.end());

  if (std::binary_search(files.begin(), files.end(), kSingle)) return SafeTensorsFile::open(folder / kSingle).tensors;
  if (std::binary_search(files.begin(), files.end(), kIndex)) return open_sharded(folder);
  std::vector<std::string> candidates;
  std::copy_if(files.begin(), files.end(), std::back_inserter(candidates),
               [](const std::string& file) { return file.ends_with(".safetensors"); });
  if (candidates.empty()) throw no_safetensors(folder, files);
  if (candidates.size() > 1)
    throw Error(ErrorKind::kUnsupported, cat(folder.string(), " has ", candidates.size(), " .safetensors files but no ",
                                             kIndex, " that says which tensor is where; download the index too"));
  return SafeTensorsFile::open(folder / candidates[0]).tensors;
}

}  // namespace nibble
