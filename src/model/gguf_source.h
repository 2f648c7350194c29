#pragma once
#include <filesystem>
#include <memory>

#include "formats/gguf.h"
#include "model/source.h"

namespace nibble {

// Is it a file whose name ends in .gguf, or one that begins as such files do? Of several formats written together the
// file is called "gguf".
bool is_gguf(const std::filesystem::path& path);
std::unique_ptr<Source> open_gguf_source(const std::filesystem::path& file);
// For tests and fuzzing, of bytes in memory; `path` is what the source calls itself.
std::unique_ptr<Source> make_gguf_source(std::shared_ptr<const Gguf> gguf, const std::filesystem::path& path);

}  // namespace nibble
