#include "core/checked.h"
#include "formats/pickle.h"

namespace nibble {
namespace {

void append(std::string& bytes, uint64_t value, size_t size) {
  for (size_t i = 0; i < size; ++i) bytes += static_cast<char>((value >> (8 * i)) & 255u);
}

}  // namespace

PickleWriter::PickleWriter() : bytes_("\x80\x02") {}

void PickleWriter::text(std::string_view text) {
  opcode('X');
  append(bytes_, checked_cast<uint32_t>(text.size(), "a text"), 4);
  bytes_ += text;
}

void PickleWriter::integer(uint64_t value) {
  const bool word = value <= 0x7fffffff;
  if (value < 256) {
    opcode('K');
    append(bytes_, value, 1);
  } else if (word) {
    opcode('J');
    append(bytes_, value, 4);
  } else {
    bytes_ += std::string_view("\x8a\x08", 2);
    append(bytes_, value, 8);
  }
}

void PickleWriter::global(std::string_view module, std::string_view name) {
  opcode('c');
  bytes_ += module;
  bytes_ += '\n';
  bytes_ += name;
  bytes_ += '\n';
}

void PickleWriter::tuple(std::span<const size_t> values) {
  opcode('(');
  for (const size_t value : values) integer(value);
  opcode('t');
}

void PickleWriter::remember(uint32_t slot) {
  opcode('r');
  append(bytes_, slot, 4);
}

void PickleWriter::recall(uint32_t slot) {
  opcode('j');
  append(bytes_, slot, 4);
}

std::string PickleWriter::finish() {
  opcode('.');
  return std::move(bytes_);
}

}  // namespace nibble
