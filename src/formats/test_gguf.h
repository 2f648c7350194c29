#pragma once
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/checked.h"

namespace nibble {

// For tests: the bytes of a GGUF file, put together piece by piece with no check at all, so that wrong files can be
// made too. Keys and tensors are written in the order of the calls; build() adds the counts, the padding and the data.
class TestGguf {
 public:
  enum Type : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

  uint32_t magic = 0x46554747;
  uint32_t version = 3;
  size_t alignment = 32;
  // Added to the true counts.
  uint64_t extra_tensors = 0, extra_keys = 0;
  bool pad_end = true;

  template <class T>
  TestGguf& key(std::string_view name, Type type, T value) {
    begin_key(name, type);
    put(keys_, value);
    return *this;
  }
  TestGguf& key(std::string_view name, std::string_view text) {
    begin_key(name, kString);
    put_string(keys_, text);
    return *this;
  }
  template <class T>
  TestGguf& list(std::string_view name, Type type, const std::vector<T>& values) {
    begin_list(name, type, values.size());
    const auto bytes = std::as_bytes(std::span(values));
    const size_t at = keys_.size();
    keys_.resize(at + bytes.size());
    if (!bytes.empty()) std::memcpy(keys_.data() + at, bytes.data(), bytes.size());
    return *this;
  }
  TestGguf& list(std::string_view name, const std::vector<std::string>& texts) {
    begin_list(name, kString, texts.size());
    for (const std::string& text : texts) put_string(keys_, text);
    return *this;
  }
  // A list that claims `count` elements and has none.
  TestGguf& empty_list(std::string_view name, uint32_t type, uint64_t count) {
    begin_list(name, static_cast<Type>(type), count);
    return *this;
  }
  // `extents` innermost first, as in the file. The data is put behind the data so far.
  TestGguf& tensor(std::string_view name, const std::vector<uint64_t>& extents, uint32_t type,
                   const std::vector<uint8_t>& data) {
    return tensor_at(name, extents, type, data_.size(), data);
  }
  TestGguf& tensor_at(std::string_view name, const std::vector<uint64_t>& extents, uint32_t type, uint64_t offset,
                      const std::vector<uint8_t>& data) {
    put_string(infos_, name);
    put(infos_, static_cast<uint32_t>(extents.size()));
    for (const uint64_t extent : extents) put(infos_, extent);
    put(infos_, type);
    put(infos_, offset);
    ++tensors_;
    end_ = data_.size() + data.size();
    data_.insert(data_.end(), data.begin(), data.end());
    data_.resize(round_up(data_.size(), alignment));
    return *this;
  }

  std::vector<std::byte> build() const {
    std::vector<uint8_t> out;
    put(out, magic);
    put(out, version);
    put(out, tensors_ + extra_tensors);
    put(out, keys_count_ + extra_keys);
    out.insert(out.end(), keys_.begin(), keys_.end());
    out.insert(out.end(), infos_.begin(), infos_.end());
    if (tensors_ > 0) {
      out.resize(round_up(out.size(), alignment));
      out.insert(out.end(), data_.begin(), data_.begin() + static_cast<ptrdiff_t>(pad_end ? data_.size() : end_));
    }
    std::vector<std::byte> bytes(out.size());
    std::memcpy(bytes.data(), out.data(), out.size());
    return bytes;
  }

 private:
  template <class T>
  static void put(std::vector<uint8_t>& out, T value) {
    uint8_t bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    out.insert(out.end(), bytes, bytes + sizeof value);
  }
  static void put_string(std::vector<uint8_t>& out, std::string_view text) {
    put(out, uint64_t{text.size()});
    out.insert(out.end(), text.begin(), text.end());
  }
  void begin_key(std::string_view name, Type type) {
    put_string(keys_, name);
    put(keys_, uint32_t{type});
    ++keys_count_;
  }
  void begin_list(std::string_view name, Type type, uint64_t count) {
    begin_key(name, kArray);
    put(keys_, uint32_t{type});
    put(keys_, count);
  }

  uint64_t tensors_ = 0, keys_count_ = 0;
  size_t end_ = 0;  // of the last tensor, without padding
  std::vector<uint8_t> keys_, infos_, data_;
};

}  // namespace nibble
