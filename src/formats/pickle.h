#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

// What a pickle says, as data: nothing of it is executed. Source: Python's pickletools, which documents every opcode.
// Values refer to each other by index, since a pickle may use one value many times.
struct PickleValue {
  enum class Kind : uint8_t {
    kNone,
    kBool,        // integer is 0 or 1
    kInteger,     // integer
    kBigInteger,  // beyond 64 bits: text holds its bytes, least significant first
    kReal,        // real
    kText,        // text
    kTuple,       // items
    kList,        // items
    kDict,        // items: key, value, key, value...
    kGlobal,      // text: "module.name" of a class or function
    kCall,        // items[0] is the function, items[1] its arguments (a tuple); what it would give is for the reader to
                  // know. Entries put into the result follow: key, value...
    kPersistent,  // items[0]: the identity of something that is kept outside
  };
  Kind kind = Kind::kNone;
  int64_t integer = 0;
  double real = 0;
  std::string text{};
  std::vector<uint32_t> items{};
};

struct Pickle {
  std::vector<PickleValue> values;
  uint32_t root = 0;
  size_t size = 0;  // bytes that it took

  const PickleValue& operator[](uint32_t index) const { return values[index]; }
};

// Reads one pickle from the beginning of `bytes`: protocols 2 to 5, the opcodes that checkpoints need. Values may
// contain themselves: walk them with a limit. Throws Error(kUnsupported) for other opcodes and for every global that
// `allowed` ("module.name") refuses, Error(kCorrupt) for what is no pickle; both with the offset.
Pickle parse_pickle(std::span<const std::byte> bytes, const std::function<bool(std::string_view)>& allowed);

// Writes pickles of protocol 2. Every call appends one opcode or value.
class PickleWriter {
 public:
  PickleWriter();
  void opcode(char code) { bytes_ += code; }
  void text(std::string_view text);  // a string
  void integer(uint64_t value);      // below 2^63
  void boolean(bool value) { opcode(value ? '\x88' : '\x89'); }
  void global(std::string_view module, std::string_view name);
  void tuple(std::span<const size_t> values);
  void remember(uint32_t slot);  // the top of the stack
  void recall(uint32_t slot);
  // Ends it.
  std::string finish();

 private:
  std::string bytes_;
};

}  // namespace nibble
