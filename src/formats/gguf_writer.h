#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/files.h"
#include "core/tensor.h"

namespace nibble {

// The metadata of a GGUF file being put together: keys in the order in which they are set. Setting a key again replaces
// its value. Numbers get the type in the function's name: readers are strict about it. Throws Error(kUsage) for keys
// that GGUF does not allow.
class GgufMetadata {
 public:
  void set_u32(std::string_view key, uint32_t value);
  void set_u64(std::string_view key, uint64_t value);
  void set_f32(std::string_view key, float value);
  void set_bool(std::string_view key, bool value);
  void set_string(std::string_view key, std::string_view value);
  void set_strings(std::string_view key, std::span<const std::string> values);
  void set_i32s(std::string_view key, std::span<const int32_t> values);
  void set_f32s(std::string_view key, std::span<const float> values);
  // A value's type and bytes as another GGUF has them: GgufValue::stored.
  void set_stored(std::string_view key, std::span<const std::byte> stored);
  bool contains(std::string_view key) const;

  size_t size() const { return entries_.size(); }
  void append_to(std::string& header) const;  // all pairs, as the file has them

 private:
  std::string& value_of(std::string_view key);
  struct Entry {
    std::string key, value;  // value: type and bytes
  };
  std::vector<Entry> entries_;
};

struct GgufSlot {
  std::string name;  // at most 64 bytes
  DType dtype;
  Shape shape;  // outermost first, at most four extents
};

// Writes one GGUF v3 file with data aligned to 32 bytes. Tensors are known beforehand; their data may come in any order
// and from several threads. Throws Error(kUsage) for slots that the format cannot hold, Error(kIo) for a full disk.
class GgufWriter {
 public:
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata, std::vector<GgufSlot> slots);
  size_t data_bytes() const { return data_bytes_; }  // of the tensors, without padding
  // Bytes of tensor `slot` starting at byte `offset` within it. Every byte is to be written exactly once.
  void write(size_t slot, size_t offset, std::span<const std::byte> bytes);
  // Syncs and closes. Every byte must have been written (checked by count).
  void finish();

 private:
  std::vector<GgufSlot> slots_;
  std::string header_;           // padded
  std::vector<size_t> offsets_;  // of each slot's data in the file
  size_t data_bytes_ = 0, file_bytes_ = 0;
  OutputFile file_;  // opened after the slots were found good
  std::atomic<size_t> written_{0}, unsynced_{0};
};

}  // namespace nibble
