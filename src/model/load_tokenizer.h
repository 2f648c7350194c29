#pragma once
#include <filesystem>
#include <memory>

#include "model/tokenizer.h"

namespace nibble {

// The tokenizer of a model: a folder with tokenizer.json (preferred) or tokenizer.model, a .gguf file (the weights may
// be missing), or one of those two files itself. Throws Error(kUsage) when there is none; errors start with the file's
// name.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);
// The same for a model that may do without: null when it has none.
std::unique_ptr<Tokenizer> find_tokenizer(const std::filesystem::path& path);

}  // namespace nibble
