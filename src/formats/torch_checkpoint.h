#pragma once
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "formats/named_tensor.h"

// Files that torch.save wrote: a zip archive of a pickle and raw storages, or (before PyTorch 1.6) one stream of them.
// The pickle is read as data, see pickle.h; only what describes a tensor is understood, everything else refused by its
// name.
namespace nibble {

// The tensors of a state dict (a dict or OrderedDict of tensors and parameters; numbers, texts and None beside them are
// left out), in its order. Views of the mapping; only a tensor that is not dense and row-major (a transposed one) is
// copied, and only if it uses no element twice. Throws Error(kCorrupt or kUnsupported) beginning with the file's name.
std::vector<NamedTensor> open_torch_file(const std::filesystem::path& path);
// For tests and fuzzing: `owner` keeps `bytes` alive.
std::vector<NamedTensor> parse_torch_checkpoint(std::span<const std::byte> bytes, std::shared_ptr<const void> owner);

// Does the folder hold weights of that kind and no safetensors?
bool is_torch_folder(const std::filesystem::path& folder);
// Every tensor of pytorch_model.bin, of the shards that pytorch_model.bin.index.json names, or of
// saved_results/best_model.pt, tried in this order.
std::vector<NamedTensor> open_torch_folder(const std::filesystem::path& folder);

}  // namespace nibble
