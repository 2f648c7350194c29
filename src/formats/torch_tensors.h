#pragma once
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/named_tensor.h"
#include "formats/pickle.h"

// Inside formats: how a pickle of torch.save describes tensors.
namespace nibble {

// A storage that the pickle refers to.
struct TorchStorage {
  std::string key;
  DType dtype;      // kU8 for untyped ones
  size_t elements;  // of dtype
};

// Is this global ("torch._utils._rebuild_tensor_v2") one that tensors need?
bool torch_global(std::string_view name);
// Every storage of the pickle; one that it describes in two ways is refused.
std::map<std::string, TorchStorage, std::less<>> torch_storages(const Pickle& pickle);
// The tensors of the state dict at the pickle's root. `bytes_of` gives a storage's bytes, of the size that it says.
std::vector<NamedTensor> torch_state_dict(
    const Pickle& pickle, const std::function<std::span<const std::byte>(const TorchStorage&)>& bytes_of,
    const std::shared_ptr<const void>& owner);

}  // namespace nibble
