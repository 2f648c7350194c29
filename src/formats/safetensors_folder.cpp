#include <algorithm>
#include <system_error>

#include "core/error.h"
#include "formats/safetensors.h"
#include "formats/shards.h"

namespace fs = std::filesystem;

namespace nibble {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// What to tell about a folder without any .safetensors file.
Error no_safetensors(const fs::path& folder, const std::vector<std::string>& files) {
  const auto gguf = std::find_if(files.begin(), files.end(), [](const std::string& f) { return f.ends_with(".gguf"); });
  std::string hint = "give a folder with model.safetensors, or a .gguf file";
  if (gguf != files.end()) hint = cat("it holds ", *gguf, ": give that file itself");
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
  if (std::binary_search(files.begin(), files.end(), kIndex))
    return open_shards(folder, kIndex, ".safetensors",
                       [](const fs::path& path) { return SafeTensorsFile::open(path).tensors; });
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
