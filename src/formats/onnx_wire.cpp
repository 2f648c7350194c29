#include "formats/onnx_wire.h"

#include <cstdint>

#include "core/error.h"
#include "formats/damage.h"

namespace nibble {
namespace {

enum class Message : uint8_t { kModel, kGraph, kNode, kAttribute, kFunction, kTensor, kOther };

// The messages on the way to a tensor. Field numbers as in onnx.proto.
Message child(Message message, uint64_t field) {
  switch (message) {
    case Message::kModel:
      return field == 7 ? Message::kGraph : field == 25 ? Message::kFunction : Message::kOther;
    case Message::kGraph:
      return field == 1 ? Message::kNode : field == 5 ? Message::kTensor : Message::kOther;
    case Message::kNode:
      return field == 5 ? Message::kAttribute : Message::kOther;
    case Message::kAttribute:
      return field == 5 || field == 10   ? Message::kTensor
             : field == 6 || field == 11 ? Message::kGraph
                                         : Message::kOther;
    case Message::kFunction:
      return field == 7 ? Message::kNode : Message::kOther;
    case Message::kTensor:
    case Message::kOther:
      break;
  }
  return Message::kOther;
}

constexpr uint64_t kRawData = 9, kMappedOffset = 536870910, kMappedLength = 536870911;
constexpr int kDeepest = 64;
constexpr uint64_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

void put_varint(uint64_t value, std::string& out) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

class Stripper {
 public:
  explicit Stripper(std::span<const std::byte> bytes) : bytes_(bytes) {}

  // Appends the message in [at, end) to `out`.
  void strip(size_t at, size_t end, Message message, int depth, std::string& out) const {
    if (depth > kDeepest)
      throw Error(ErrorKind::kCorrupt, cat("graphs are nested more than ", kDeepest, " deep; ", kDamaged));
    while (at < end) {
      const size_t start = at;
      const uint64_t tag = varint(at, end);
      const uint64_t field = tag >> 3, type = tag & 7;
      if (field == 0 || field > kMappedLength) fail(start, cat("field number ", field));
      if (type != kBytes) {
        at = skip(at, end, type, start);
        if (message == Message::kTensor && (field == kMappedOffset || field == kMappedLength)) continue;  // ours alone
        copy(start, at, out);
        continue;
      }
      const uint64_t length = varint(at, end);
      if (length > end - at)
        fail(start, cat("field ", field, " claims ", length, " bytes where ", end - at, " are left"));
      const size_t next = at + static_cast<size_t>(length);
      const Message inner = child(message, field);
      if (message == Message::kTensor && (field == kMappedOffset || field == kMappedLength)) {
        at = next;
        continue;
      }
      if (message == Message::kTensor && field == kRawData && length >= kInlineBytes) {
        put_varint(kMappedOffset << 3, out);
        put_varint(at, out);
        put_varint(kMappedLength << 3, out);
        put_varint(length, out);
      } else if (inner != Message::kOther) {
        std::string stripped;
        strip(at, next, inner, depth + 1, stripped);
        put_varint(tag, out);
        put_varint(stripped.size(), out);
        out += stripped;
      } else {
        copy(start, next, out);
      }
      at = next;
    }
  }

 private:
  [[noreturn]] static void fail(size_t at, const std::string& what) {
    throw Error(ErrorKind::kCorrupt, cat("not an ONNX model, or damaged: at byte ", at, ": ", what));
  }

  uint64_t varint(size_t& at, size_t end) const {
    const size_t start = at;
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (at == end) fail(start, "a number is cut off");
      const auto byte = static_cast<uint64_t>(bytes_[at++]);
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    fail(start, "a number of more than 64 bits");
  }

  size_t skip(size_t at, size_t end, uint64_t type, size_t start) const {
    if (type == kVarint) {
      varint(at, end);
      return at;
    }
    const size_t size = type == kFixed64 ? 8 : type == kFixed32 ? 4 : 0;
    if (size == 0) fail(start, cat("wire type ", type));
    if (size > end - at) fail(start, "a number is cut off");
    return at + size;
  }

  void copy(size_t from, size_t to, std::string& out) const {
    out.append(reinterpret_cast<const char*>(bytes_.data()) + from, to - from);
  }

  std::span<const std::byte> bytes_;
};

}  // namespace

std::string without_tensor_data(std::span<const std::byte> model) {
  std::string out;
  Stripper(model).strip(0, model.size(), Message::kModel, 0, out);
  return out;
}

}  // namespace nibble
