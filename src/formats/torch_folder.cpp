#include <system_error>

#include "formats/shards.h"
#include "formats/torch_checkpoint.h"

namespace fs = std::filesystem;

namespace nibble {
namespace {

constexpr const char* kSingle = "pytorch_model.bin";
constexpr const char* kIndex = "pytorch_model.bin.index.json";
constexpr const char* kOurs = "saved_results/best_model.pt";

bool has_file(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

}  // namespace

bool is_torch_folder(const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().extension() == ".safetensors") return false;
  return has_file(folder / kSingle) || has_file(folder / kIndex) || has_file(folder / kOurs);
}

std::vector<NamedTensor> open_torch_folder(const fs::path& folder) {
  if (has_file(folder / kSingle)) return open_torch_file(folder / kSingle);
  if (has_file(folder / kIndex)) return open_shards(folder, kIndex, ".bin", open_torch_file);
  return open_torch_file(folder / kOurs);
}

}  // namespace nibble
