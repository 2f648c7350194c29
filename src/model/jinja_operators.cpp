// Arithmetic and slices, with Python's rules.
#include <algorithm>
#include <cmath>

#include "model/jinja_interpreter.h"

namespace nibble::jinja {
namespace {

[[noreturn]] void overflow() { unsupported("an integer beyond 64 bits"); }

int64_t integer_power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) && __builtin_mul_overflow(result, base, &result)) overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return result;
}

Value integers(std::string_view op, int64_t a, int64_t b) {
  int64_t out = 0;
  if (op == "+"   ? __builtin_add_overflow(a, b, &out)
      : op == "-" ? __builtin_sub_overflow(a, b, &out)
                  : op == "*" && __builtin_mul_overflow(a, b, &out))
    overflow();
  if (op == "+" || op == "-" || op == "*") return Value(out);
  if (op == "**")
    return b < 0 ? Value(std::pow(static_cast<double>(a), static_cast<double>(b))) : Value(integer_power(a, b));
  if (b == 0) fail("division by zero");
  if (op == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) return op == "//" ? integers("-", 0, a) : Value(int64_t{0});  // the one quotient that may overflow
  const bool rounds_down = a % b != 0 && (a < 0) != (b < 0);
  if (op == "//") return Value(a / b - (rounds_down ? 1 : 0));
  return Value(a % b + (rounds_down ? b : 0));
}

Value doubles(std::string_view op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") return Value(std::pow(a, b));
  if (b == 0) fail("division by zero");
  if (op == "/") return Value(a / b);
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  if (op == "%") return Value(rest);
  return Value(std::floor((a - rest) / b + 0.5));  // a - rest is a multiple of b up to rounding
}

Value repeat(const Value& sequence, int64_t count, Budget& budget) {
  const size_t n = count > 0 ? static_cast<size_t>(count) : 0;
  if (const std::string* text = sequence.as_string()) {
    budget.spend(n, text->size());
    std::string out;
    for (size_t i = 0; i < n && !text->empty(); ++i) out += *text;
    return Value(std::move(out));
  }
  const List& list = *sequence.as_list();
  budget.spend(n, 32 * list.items.size());
  std::vector<Value> items;
  for (size_t i = 0; i < n && !list.items.empty(); ++i) items.insert(items.end(), list.items.begin(), list.items.end());
  return make_list(std::move(items), list.tuple);
}

}  // namespace

Value arithmetic(std::string_view op, const Value& a, const Value& b, Budget& budget) {
  for (const Value* v : {&a, &b})
    if (v->is_undefined()) fail(cat("'", v->as_undefined()->name, "' is undefined"));
  if (a.is_integral() && b.is_integral()) return integers(op, get_int(a, op), get_int(b, op));
  if (a.is_number() && b.is_number()) return doubles(op, get_double(a, op), get_double(b, op));
  const List *x = a.as_list(), *y = b.as_list();
  if (op == "+" && a.as_string() && b.as_string()) {
    budget.spend(a.as_string()->size() + b.as_string()->size());
    return Value(*a.as_string() + *b.as_string());
  }
  if (op == "+" && x && y && x->tuple == y->tuple) {
    budget.spend(x->items.size() + y->items.size(), 32);
    std::vector<Value> items = x->items;
    items.insert(items.end(), y->items.begin(), y->items.end());
    return make_list(std::move(items), x->tuple);
  }
  if (op == "*" && (a.as_string() || x) && b.is_integral()) return repeat(a, get_int(b, op), budget);
  if (op == "*" && (b.as_string() || y) && a.is_integral()) return repeat(b, get_int(a, op), budget);
  if (op == "%" && a.as_string()) unsupported("formatting with %");
  fail(cat("'", op, "' cannot be applied to a ", type_name(a), " and a ", type_name(b)));
}

Value slice(const Value& sequence, const Value& start, const Value& stop, const Value& step, Budget& budget) {
  if (const Undefined* undefined = sequence.as_undefined()) fail(cat("'", undefined->name, "' is undefined"));
  if (!sequence.as_list() && !sequence.as_string())
    fail(cat("a value of type ", type_name(sequence), " has no slices"));
  budget.spend(sequence.as_string() ? sequence.as_string()->size() : 0);
  const auto n = static_cast<int64_t>(*length(sequence));
  const int64_t by = step.is_none() ? 1 : get_int(step, "a slice's step");
  if (by == 0) fail("a slice's step is 0");
  const int64_t lowest = by > 0 ? 0 : -1, highest = by > 0 ? n : n - 1;
  const auto bound = [&](const Value& value, int64_t absent) {
    if (value.is_none()) return absent;
    const int64_t i = get_int(value, "a slice's bound");
    return std::clamp(i < 0 ? i + n : i, lowest, highest);
  };
  const int64_t from = bound(start, by > 0 ? lowest : highest), to = bound(stop, by > 0 ? highest : lowest);

  const std::string* text = sequence.as_string();
  const std::vector<size_t> offsets = text ? code_point_offsets(*text) : std::vector<size_t>();
  if (text && by == 1) {
    if (from >= to) return Value(std::string());
    const size_t begin = offsets[static_cast<size_t>(from)];
    return Value(text->substr(begin, offsets[static_cast<size_t>(to)] - begin));
  }
  std::string characters;
  std::vector<Value> items;
  const uint64_t stride = by > 0 ? static_cast<uint64_t>(by) : uint64_t{0} - static_cast<uint64_t>(by);
  const auto distance = by > 0 ? to - from : from - to;
  const uint64_t count = distance <= 0 ? 0 : (static_cast<uint64_t>(distance) - 1) / stride + 1;
  budget.spend(static_cast<size_t>(count), 32);
  for (uint64_t k = 0; k < count; ++k) {
    const auto i = static_cast<size_t>(from + static_cast<int64_t>(k) * by);
    if (text)
      characters.append(*text, offsets[i], offsets[i + 1] - offsets[i]);
    else
      items.push_back(sequence.as_list()->items[i]);
  }
  if (text) return Value(std::move(characters));
  return make_list(std::move(items), sequence.as_list()->tuple);
}

}  // namespace nibble::jinja
