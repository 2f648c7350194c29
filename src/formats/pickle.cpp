#include "formats/pickle.h"

#include <bit>
#include <cstring>
#include <map>

#include "core/checked.h"
#include "core/text.h"
#include "formats/damage.h"

namespace nibble {
namespace {

using Kind = PickleValue::Kind;

// A tensor takes about 20 values. Bounds what a hostile file can make us allocate.
constexpr size_t kMaxValues = size_t{1} << 22;

std::string hexadecimal(uint8_t byte) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  return {'0', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
}

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::function<bool(std::string_view)>& allowed)
      : bytes_(bytes), allowed_(allowed) {}

  Pickle read() {
    while (step()) {
    }
    if (stack_.size() != 1 || !marks_.empty()) corrupt(cat(stack_.size(), " values are left at its end"));
    pickle_.root = stack_[0];
    pickle_.size = at_;
    return std::move(pickle_);
  }

 private:
  [[noreturn]] void corrupt(const std::string& what, std::string_view advice = kDamaged) const {
    throw Error(ErrorKind::kCorrupt, cat("pickle at byte ", opcode_at_, ": ", what, "; ", advice));
  }

  std::span<const std::byte> take(uint64_t count) {
    if (count > bytes_.size() - at_) corrupt(cat("it ends where ", count, " bytes should follow"), kTruncated);
    const auto taken = bytes_.subspan(at_, static_cast<size_t>(count));
    at_ += taken.size();
    return taken;
  }
  template <class T>
  T number() {
    static_assert(std::endian::native == std::endian::little);
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string text(uint64_t count) {
    const auto bytes = take(count);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::string line() {
    const size_t begin = at_;
    while (number<char>() != '\n') {
    }
    return {reinterpret_cast<const char*>(bytes_.data()) + begin, at_ - 1 - begin};
  }

  PickleValue& push(Kind kind) {
    if (pickle_.values.size() == kMaxValues) corrupt(cat("it has more than ", kMaxValues, " values"));
    stack_.push_back(static_cast<uint32_t>(pickle_.values.size()));
    pickle_.values.push_back({.kind = kind});
    return pickle_.values.back();
  }
  void push_integer(int64_t value) { push(Kind::kInteger).integer = value; }
  void push_text(std::string value) { push(Kind::kText).text = std::move(value); }

  // Values below the last mark belong to whoever set it.
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  uint32_t pop() {
    if (stack_.size() <= floor()) corrupt("a value is missing on the stack");
    const uint32_t top = stack_.back();
    stack_.pop_back();
    return top;
  }
  uint32_t top() const {
    if (stack_.size() <= floor()) corrupt("a value is missing on the stack");
    return stack_.back();
  }
  std::vector<uint32_t> pop_to_mark() {
    if (marks_.empty()) corrupt("a mark is missing on the stack");
    const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<uint32_t> values(first, stack_.end());
    stack_.erase(first, stack_.end());
    marks_.pop_back();
    return values;
  }
  void tuple(size_t count) {
    std::vector<uint32_t> items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    push(Kind::kTuple).items = std::move(items);
  }

  void append(const std::vector<uint32_t>& items) {
    PickleValue& list = pickle_.values[top()];
    if (list.kind != Kind::kList) corrupt("only a list can be appended to");
    list.items.insert(list.items.end(), items.begin(), items.end());
  }
  void set(const std::vector<uint32_t>& items) {
    PickleValue& dict = pickle_.values[top()];
    if (dict.kind != Kind::kDict && dict.kind != Kind::kCall) corrupt("only a dict can be given entries");
    if (items.size() % 2 != 0) corrupt("a key has no value");
    dict.items.insert(dict.items.end(), items.begin(), items.end());
  }

  void global(const std::string& module, const std::string& name) {
    std::string full = cat(module, ".", name);
    if (!allowed_(full))
      throw Error(ErrorKind::kUnsupported,
                  cat("pickle at byte ", opcode_at_, ": it asks for ", quote(full),
                      ", which nibble does not know and will not run; save a plain dict of tensors (a state_dict)"));
    push(Kind::kGlobal).text = std::move(full);
  }
  void stack_global() {
    const uint32_t name = pop(), module = pop();
    const PickleValue &m = pickle_[module], &n = pickle_[name];
    if (m.kind != Kind::kText || n.kind != Kind::kText) corrupt("a global's name should be text");
    global(std::string(m.text), std::string(n.text));
  }
  void call() {
    const uint32_t arguments = pop(), function = pop();
    if (pickle_[function].kind != Kind::kGlobal || pickle_[arguments].kind != Kind::kTuple)
      corrupt("only a function can be called, with a tuple of arguments");
    push(Kind::kCall).items = {function, arguments};
  }
  // Attributes of an object: of no use here.
  void build() {
    pop();
    const Kind kind = pickle_[top()].kind;
    if (kind != Kind::kCall) corrupt("only an object can be given a state");
  }
  void long_integer(size_t count) {
    const auto bytes = take(count);
    if (count > 8) {
      push(Kind::kBigInteger).text.assign(reinterpret_cast<const char*>(bytes.data()), count);
      return;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < count; ++i) value |= static_cast<uint64_t>(bytes[i]) << (8 * i);
    if (count > 0 && count < 8 && (bytes[count - 1] & std::byte{0x80}) != std::byte{})
      value |= ~uint64_t{0} << (8 * count);
    push_integer(static_cast<int64_t>(value));
  }
  void remember(uint32_t slot) { memo_[slot] = top(); }
  void recall(uint32_t slot) {
    const auto it = memo_.find(slot);
    if (it == memo_.end()) corrupt(cat("it recalls value ", slot, ", which it never kept"));
    stack_.push_back(it->second);
    // Pushing nothing new is free of values, so that the stack has its own bound.
    if (stack_.size() > kMaxValues) corrupt(cat("more than ", kMaxValues, " values are on the stack"));
  }

  // One opcode; false after the last.
  bool step() {
    opcode_at_ = at_;
    const auto opcode = number<uint8_t>();
    switch (opcode) {
      case 0x80:  // PROTO
        if (const auto protocol = number<uint8_t>(); protocol < 2 || protocol > 5)
          throw Error(ErrorKind::kUnsupported, cat("pickle protocol ", +protocol, "; nibble reads 2 to 5"));
        return true;
      case 0x95:  // FRAME: a hint for buffering
        number<uint64_t>();
        return true;
      case '.':
        return false;
      case '(':
        marks_.push_back(stack_.size());
        if (marks_.size() > kMaxValues) corrupt("it is nested too deeply");
        return true;
      case 'N':
        push(Kind::kNone);
        return true;
      case 0x88:
      case 0x89:
        push(Kind::kBool).integer = opcode == 0x88 ? 1 : 0;
        return true;
      case 'J':
        push_integer(number<int32_t>());
        return true;
      case 'K':
        push_integer(number<uint8_t>());
        return true;
      case 'M':
        push_integer(number<uint16_t>());
        return true;
      case 0x8a:  // LONG1
        long_integer(number<uint8_t>());
        return true;
      case 'G': {  // the only big-endian number
        const auto bits = __builtin_bswap64(number<uint64_t>());
        push(Kind::kReal).real = std::bit_cast<double>(bits);
        return true;
      }
      case 'U':   // SHORT_BINSTRING, of Python 2
      case 0x8c:  // SHORT_BINUNICODE
        push_text(text(number<uint8_t>()));
        return true;
      case 'T':  // BINSTRING, of Python 2
      case 'X':
        push_text(text(number<uint32_t>()));
        return true;
      case 0x8d:  // BINUNICODE8
        push_text(text(number<uint64_t>()));
        return true;
      case ')':
        push(Kind::kTuple);
        return true;
      case ']':
        push(Kind::kList);
        return true;
      case '}':
        push(Kind::kDict);
        return true;
      case 't': {
        auto items = pop_to_mark();
        push(Kind::kTuple).items = std::move(items);
        return true;
      }
      case 0x85:
      case 0x86:
      case 0x87:
        tuple(opcode - size_t{0x84});
        return true;
      case 'a':
        append({pop()});
        return true;
      case 'e':
        append(pop_to_mark());
        return true;
      case 's': {
        const uint32_t value = pop(), key = pop();
        set({key, value});
        return true;
      }
      case 'u':
        set(pop_to_mark());
        return true;
      case 'c': {
        const std::string module = line();
        global(module, line());
        return true;
      }
      case 0x93:
        stack_global();
        return true;
      case 'R':
        call();
        return true;
      case 'b':
        build();
        return true;
      case 'Q': {
        const uint32_t identity = pop();
        push(Kind::kPersistent).items = {identity};
        return true;
      }
      case 'q':
        remember(number<uint8_t>());
        return true;
      case 'r':
        remember(number<uint32_t>());
        return true;
      case 0x94:  // MEMOIZE
        remember(static_cast<uint32_t>(memo_.size()));
        return true;
      case 'h':
        recall(number<uint8_t>());
        return true;
      case 'j':
        recall(number<uint32_t>());
        return true;
      default:
        throw Error(ErrorKind::kUnsupported, cat("pickle at byte ", opcode_at_, ": opcode ", hexadecimal(opcode),
                                                 ", which checkpoints of tensors do not need"));
    }
  }

  std::span<const std::byte> bytes_;
  const std::function<bool(std::string_view)>& allowed_;
  size_t at_ = 0, opcode_at_ = 0;
  Pickle pickle_;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;  // sizes of the stack
  std::map<uint32_t, uint32_t> memo_;
};

}  // namespace

Pickle parse_pickle(std::span<const std::byte> bytes, const std::function<bool(std::string_view)>& allowed) {
  return Reader(bytes, allowed).read();
}

}  // namespace nibble
