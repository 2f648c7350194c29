#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/mapped_file.h"
#include "core/tensor.h"

namespace nibble {

// One metadata value; numbers and arrays of numbers are widened to their class. Strings are views into the mapping, in
// range but not checked to be UTF-8.
struct GgufValue {
  using Strings = std::vector<std::string_view>;
  std::variant<uint64_t, int64_t, double, bool, std::string_view, std::vector<int64_t>, std::vector<double>,
               std::vector<bool>, Strings>
      data;
  std::span<const std::byte> stored{};  // its type and bytes as the file has them
};

// "the number 3", "a list of 5 strings": for messages.
std::string describe(const GgufValue& value);

struct GgufTensor {
  std::string name;
  TensorView view;  // shape outermost first (the file has it innermost first)
};

// A GGUF v2 or v3 file, or all parts of a split one (open any part: NAME-00001-of-00003.gguf). Everything is checked
// before use: strings and arrays are inside the file, keys and tensor names unique, rows whole blocks, and the tensors'
// data tile the rest of the file, each padded to general.alignment. Throws Error(kCorrupt) for damage,
// Error(kUnsupported) for other versions, big-endian files and tensor types that are not in core/dtype.h. Immutable,
// thread-safe. Specification: ggml's docs/gguf.md.
class Gguf {
 public:
  static std::shared_ptr<const Gguf> open(const std::filesystem::path& path);
  // One file alone, for tests and fuzzing (other parts of a split model are not looked for). `owner` keeps `bytes`
  // alive.
  static std::shared_ptr<const Gguf> parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner);

  uint32_t version() const { return version_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in the order of the header; parts one by one
  // Of a split model: the first part's.
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }

  // Typed access: the find_ forms give nothing for an absent key; all throw Error(kCorrupt) "KEY should be a TYPE".
  const GgufValue* find(std::string_view key) const;
  std::optional<std::string_view> find_string(std::string_view key) const;
  std::optional<uint64_t> find_unsigned(std::string_view key) const;  // any integer type, non-negative
  std::optional<double> find_number(std::string_view key) const;      // any numeric type
  std::optional<bool> find_bool(std::string_view key) const;
  const GgufValue::Strings* find_strings(std::string_view key) const;
  const std::vector<int64_t>* find_integers(std::string_view key) const;
  const std::vector<double>* find_numbers(std::string_view key) const;

 private:
  friend class GgufParser;
  uint32_t version_ = 0;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<std::shared_ptr<const void>> owners_;
};

}  // namespace nibble
