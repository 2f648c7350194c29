#include "export/hf_folder.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "core/checked.h"

namespace nibble {
namespace {

// Small enough that the final sync has little left to do, large enough that the disk sees long runs.
constexpr size_t kWritebackBytes = size_t{32} << 20;

std::string shard_file(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

// Metadata of a GGUF may hold bytes that are no UTF-8: replaced, since a model should not fail for its licence's name.
std::string text_of(const OrderedJson& json) {
  return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

std::string_view torch_name(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return "float16";
    case DType::kBF16:
      return "bfloat16";
    case DType::kF64:
      return "float64";
    default:
      return "float32";
  }
}

}  // namespace

HfFolder::HfFolder(const std::filesystem::path& out, bool force, std::vector<SafeTensorSlot> slots, size_t shard_bytes)
    : output_(out, /*folder=*/true, force), places_(slots.size()) {
  std::vector<std::vector<size_t>> shards(1);
  size_t filled = 0;
  for (size_t i = 0; i < slots.size(); ++i) {
    const size_t bytes = byte_size(slots[i].dtype, element_count(slots[i].shape));
    if (filled != 0 && filled + bytes > shard_bytes) shards.emplace_back(), filled = 0;
    shards.back().push_back(i);
    filled += bytes;
    data_bytes_ = checked_add(data_bytes_, bytes, "the model");
    names_.push_back(slots[i].name);
  }
  unsynced_ = std::vector<std::atomic<size_t>>(shards.size());
  for (size_t s = 0; s < shards.size(); ++s) {
    // Falling element size keeps every tensor aligned, so that readers can use the mapping in place.
    std::stable_sort(shards[s].begin(), shards[s].end(), [&](size_t a, size_t b) {
      return info(slots[a].dtype).block_bytes > info(slots[b].dtype).block_bytes;
    });
    std::vector<SafeTensorSlot> own;
    for (const size_t i : shards[s]) {
      places_[i] = {s, own.size()};
      own.push_back(std::move(slots[i]));
    }
    shard_files_.push_back(shard_file(s, shards.size()));
    shards_.push_back(std::make_unique<SafeTensorsWriter>(output_.path() / shard_files_.back(), std::move(own),
                                                          std::map<std::string, std::string>{{"format", "pt"}}));
  }
}

void HfFolder::write(size_t slot, size_t offset, std::span<const std::byte> bytes) {
  const Place place = places_[slot];
  shards_[place.shard]->write(place.slot, offset, bytes);
  std::atomic<size_t>& unsynced = unsynced_[place.shard];
  if (unsynced.fetch_add(bytes.size()) + bytes.size() < kWritebackBytes) return;
  unsynced = 0;
  shards_[place.shard]->start_writeback();
}

void HfFolder::finish(const OrderedJson& config, const Source& source, const std::map<std::string, std::string>& more) {
  for (const auto& shard : shards_) shard->finish();
  if (shards_.size() > 1) {
    std::map<std::string, std::string> files;
    for (size_t i = 0; i < names_.size(); ++i) files[names_[i]] = shard_files_[places_[i].shard];
    const OrderedJson index = {{"metadata", {{"total_size", data_bytes_}}}, {"weight_map", files}};
    write_text_file(output_.path() / "model.safetensors.index.json", text_of(index));
  }
  write_side_files(output_.path(), config, source);
  for (const auto& [name, contents] : more) write_text_file(output_.path() / name, contents);
  output_.commit();
}

void write_side_files(const std::filesystem::path& folder, const OrderedJson& config, const Source& source) {
  for (const std::string& name : source.side_files()) write_text_file(folder / name, source.side_file(name));
  write_text_file(folder / "config.json", text_of(config));
}

OrderedJson updated_config(const Json& source_config, DType dtype, bool tied_embeddings) {
  OrderedJson config(source_config);
  // transformers 4 says torch_dtype, transformers 5 dtype; both read the other's.
  const bool old_name = config.contains("torch_dtype");
  if (old_name) config["torch_dtype"] = torch_name(dtype);
  if (!old_name || config.contains("dtype")) config["dtype"] = torch_name(dtype);
  config["tie_word_embeddings"] = tied_embeddings;
  return config;
}

}  // namespace nibble
