#include <cstdio>
#include <iterator>
#include <set>
#include <system_error>

#include "core/checked.h"
#include "core/text.h"
#include "formats/gguf_parser.h"

namespace fs = std::filesystem;

namespace nibble {
namespace {

// Keys that the tool which splits models writes into each part; parts are counted from 0 in the key, from 1 in the
// name.
struct Split {
  size_t number = 0;
  size_t count = 1;
  size_t tensors = 0;  // of all parts together; 0 = not said
};

Split read_split(const Gguf& gguf) {
  Split out;
  out.count = checked_cast<size_t>(gguf.find_unsigned("split.count").value_or(1), "split.count");
  if (out.count <= 1) return {};
  out.number = checked_cast<size_t>(gguf.find_unsigned("split.no").value_or(0), "split.no");
  out.tensors = checked_cast<size_t>(gguf.find_unsigned("split.tensors.count").value_or(0), "split.tensors.count");
  if (out.count > UINT16_MAX || out.number >= out.count)
    throw Error(ErrorKind::kCorrupt, cat("this is part ", out.number, " (counted from 0) of ", out.count,
                                         "; the file is damaged: download it again"));
  return out;
}

std::string part_suffix(size_t number, size_t count) {
  char text[64];
  std::snprintf(text, sizeof text, "-%05zu-of-%05zu.gguf", number + 1, count);
  return text;
}

std::shared_ptr<Gguf> open_one(const fs::path& path) {
  const auto file = MappedFile::open(path);
  return with_context([&] { return path.string(); }, [&] { return GgufParser::parse(file->bytes(), file); });
}

// The paths of all parts, `path` being one of them.
std::vector<fs::path> part_paths(const fs::path& path, const Split& split) {
  const std::string name = path.filename().string();
  const std::string suffix = part_suffix(split.number, split.count);
  if (!name.ends_with(suffix))
    throw Error(ErrorKind::kUsage, cat(path.string(), " is part ", split.number + 1, " of ", split.count,
                                       ": its name should end in ", suffix, ", so that the other parts can be found"));
  const std::string stem = name.substr(0, name.size() - suffix.size());
  std::vector<fs::path> paths;
  std::vector<std::string> missing;
  for (size_t i = 0; i < split.count; ++i) {
    paths.push_back(path.parent_path() / (stem + part_suffix(i, split.count)));
    std::error_code ignored;
    if (!fs::exists(paths.back(), ignored)) missing.push_back(paths.back().filename().string());
  }
  if (missing.empty()) return paths;
  const size_t total = missing.size();
  constexpr size_t kShown = 5;
  if (total > kShown) missing.resize(kShown);
  throw Error(ErrorKind::kIo,
              cat(path.string(), ": ", total, " of ", split.count, " parts are missing: ", join(missing, ", "),
                  total > kShown ? ", ..." : "", "; download them into the same folder"));
}

}  // namespace

void GgufParser::append(Gguf& all, Gguf& part) {
  std::move(part.tensors_.begin(), part.tensors_.end(), std::back_inserter(all.tensors_));
  std::move(part.owners_.begin(), part.owners_.end(), std::back_inserter(all.owners_));
}

std::shared_ptr<const Gguf> Gguf::open(const fs::path& path) {
  auto opened = open_one(path);
  const Split split = with_context([&] { return path.string(); }, [&] { return read_split(*opened); });
  if (split.count == 1) return opened;

  const std::vector<fs::path> paths = part_paths(path, split);
  std::shared_ptr<Gguf> all;
  for (size_t i = 0; i < paths.size(); ++i) {
    auto part = i == split.number ? opened : open_one(paths[i]);
    with_context([&] { return paths[i].string(); },
                 [&] {
                   const Split found = read_split(*part);
                   if (found.number != i || found.count != split.count)
                     throw Error(ErrorKind::kCorrupt,
                                 cat("its metadata says part ", found.number + 1, " of ", found.count,
                                     ", its name says part ", i + 1, " of ", split.count, ": download it again"));
                   if (all) GgufParser::append(*all, *part);
                 });
    if (!all) all = std::move(part);
  }
  std::set<std::string_view> names;
  for (const GgufTensor& tensor : all->tensors())
    if (!names.insert(tensor.name).second)
      throw Error(ErrorKind::kCorrupt, cat(path.string(), ": two parts have the tensor ", quote(tensor.name)));
  if (split.tensors != 0 && split.tensors != all->tensors().size())
    throw Error(ErrorKind::kCorrupt,
                cat(path.string(), ": the parts have ", all->tensors().size(), " tensors together, ", split.tensors,
                    " are announced: download all parts again"));
  return all;
}

}  // namespace nibble
