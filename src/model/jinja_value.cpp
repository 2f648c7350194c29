#include "model/jinja_value.h"

#include <algorithm>
#include <cmath>

namespace nibble::jinja {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kElementCost = 32;  // units of budget for one element of a list or dictionary

// Exact for comparisons of an int with a double, as Python's are, wherever the double can hold the int.
double number(const Value& value) {
  if (const double* d = value.as_double()) return *d;
  if (const int64_t* i = value.as_int()) return static_cast<double>(*i);
  return *value.as_bool() ? 1 : 0;
}

int64_t integer(const Value& value) { return value.as_int() ? *value.as_int() : *value.as_bool() ? 1 : 0; }

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {}

  void write(const Value& value) {
    budget_.spend(kElementCost);
    if (const std::string* text = value.as_string()) return string(*text);
    if (const List* list = value.as_list())
      return sequence('[', ']', list->items, [&](const Value& item) { write(item); });
    if (const Dict* dict = value.as_dict()) return dictionary(*dict);
    put(scalar(value));
  }

  std::string take() { return std::move(out_); }

 private:
  void put(std::string_view text) {
    budget_.spend(text.size());
    out_ += text;
  }

  static std::string scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (const bool* b = value.as_bool()) return *b ? "true" : "false";
    if (const int64_t* i = value.as_int()) return cat(*i);
    if (const double* d = value.as_double()) {
      if (std::isnan(*d)) return "NaN";
      if (std::isinf(*d)) return *d < 0 ? "-Infinity" : "Infinity";
      return format_double(*d);
    }
    fail(cat("tojson: a value of type ", type_name(value), " has no JSON form"));
  }

  void escape(char32_t c) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text = "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) text += kDigits[(c >> shift) & 0xf];
    put(text);
  }

  void string(std::string_view text) {
    put("\"");
    for (size_t i = 0; i < text.size();) {
      const size_t begin = i;
      const char32_t c = next_code_point(text, i);
      constexpr std::string_view kShort = "\"\\\n\r\t\f\b", kLetters = "\"\\nrtfb";
      const size_t known = c < 0x80 ? kShort.find(static_cast<char>(c)) : std::string_view::npos;
      if (known != std::string_view::npos) {
        put(std::string{'\\', kLetters[known]});
      } else if (c >= 0x10000 && style_.ensure_ascii) {
        escape(0xd800 + ((c - 0x10000) >> 10)), escape(0xdc00 + (c & 0x3ff));
      } else if (c < 0x20 || (c > 0x7e && style_.ensure_ascii)) {
        escape(c);
      } else {
        put(text.substr(begin, i - begin));
      }
    }
    put("\"");
  }

  void new_line() {
    if (!style_.indent) return;
    put("\n");
    for (size_t i = 0; i < level_; ++i) put(*style_.indent);
  }

  template <class Items, class WriteItem>
  void sequence(char open, char close, const Items& items, WriteItem write_item) {
    put(std::string(1, open));
    ++level_;
    bool first = true;
    for (const auto& item : items) {
      if (!std::exchange(first, false)) put(style_.item_separator);
      new_line();
      write_item(item);
    }
    --level_;
    if (!items.empty()) new_line();
    put(std::string(1, close));
  }

  void dictionary(const Dict& dict) {
    std::vector<std::pair<Value, Value>> sorted;
    if (style_.sort_keys) {
      budget_.spend(dict.entries.size(), kElementCost);
      sorted = dict.entries;
      std::stable_sort(sorted.begin(), sorted.end(),
                       [&](const auto& a, const auto& b) { return compare(a.first, b.first, budget_) < 0; });
    }
    sequence('{', '}', style_.sort_keys ? sorted : dict.entries, [&](const auto& entry) {
      string(entry.first.as_string() ? *entry.first.as_string() : scalar(entry.first));
      put(style_.key_separator);
      write(entry.second);
    });
  }

  const JsonStyle& style_;
  Budget& budget_;
  std::string out_;
  size_t level_ = 0;
};

}  // namespace

void fail(const std::string& message) { throw Error(ErrorKind::kCorrupt, message); }
void unsupported(const std::string& message) { throw Error(ErrorKind::kUnsupported, message); }

size_t depth_of(const Value& value) {
  if (const List* list = value.as_list()) return list->depth;
  if (const Dict* dict = value.as_dict()) return dict->depth;
  return value.as_object() ? value.as_object()->depth() : 0;
}

size_t deeper(size_t inner) {
  if (inner >= kMaxDepth) unsupported(cat("lists and dictionaries nested deeper than ", kMaxDepth, " levels"));
  return inner + 1;
}

std::optional<Value> Object::attribute(std::string_view) const { return std::nullopt; }
Value Object::call(Interpreter&, const Arguments&) const { fail(cat("a ", type(), " cannot be called")); }

std::vector<const Value*> Arguments::bind(std::string_view function, const std::vector<std::string_view>& parameters,
                                          size_t required) const {
  std::vector<const Value*> bound(parameters.size(), nullptr);
  if (positional.size() > parameters.size())
    fail(cat(function, " takes at most ", parameters.size(), " arguments, found ", positional.size()));
  for (size_t i = 0; i < positional.size(); ++i) bound[i] = &positional[i];
  for (const auto& [name, value] : named) {
    const auto it = std::find(parameters.begin(), parameters.end(), name);
    if (it == parameters.end()) fail(cat(function, " has no parameter named '", name, "'"));
    const Value*& slot = bound[static_cast<size_t>(it - parameters.begin())];
    if (slot) fail(cat(function, " got '", name, "' twice"));
    slot = &value;
  }
  for (size_t i = 0; i < required; ++i)
    if (!bound[i]) fail(cat(function, " needs an argument '", parameters[i], "'"));
  return bound;
}

Value make_list(std::vector<Value> items, bool tuple) {
  size_t inner = 0;
  for (const Value& item : items) inner = std::max(inner, depth_of(item));
  return Value(std::make_shared<const List>(List{std::move(items), tuple, deeper(inner)}));
}

Value make_strings(std::vector<std::string> items) {
  std::vector<Value> values;
  values.reserve(items.size());
  for (std::string& item : items) values.emplace_back(std::move(item));
  return make_list(std::move(values));
}

Value make_dict(std::vector<std::pair<Value, Value>> entries, Budget& budget) {
  Dict dict;
  size_t inner = 0;
  for (std::pair<Value, Value>& fresh : entries) {
    auto& [key, value] = fresh;
    if (!key.as_string() && !key.is_number() && !key.is_none())
      fail(cat("a ", type_name(key), " cannot be a dictionary's key here"));
    inner = std::max(inner, depth_of(value));
    const auto old = std::find_if(dict.entries.begin(), dict.entries.end(),
                                  [&](const auto& entry) { return equal(entry.first, fresh.first, budget); });
    if (old != dict.entries.end())
      old->second = std::move(value);
    else
      dict.entries.emplace_back(std::move(key), std::move(value));
  }
  dict.depth = deeper(inner);
  return Value(std::make_shared<const Dict>(std::move(dict)));
}

Value from_json(const Json& json, Budget& budget) {
  budget.spend(kElementCost);
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value(json.get<bool>());
    case Json::value_t::number_integer:
      return Value(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return Value(json.get<double>());
      return Value(json.get<int64_t>());
    case Json::value_t::number_float:
      return Value(json.get<double>());
    case Json::value_t::string:
      return Value(json.get<std::string>());
    case Json::value_t::array: {
      std::vector<Value> items;
      for (const Json& item : json) items.push_back(from_json(item, budget));
      return make_list(std::move(items));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> entries;
      for (const auto& [key, value] : json.items()) entries.emplace_back(Value(key), from_json(value, budget));
      return make_dict(std::move(entries), budget);
    }
    default:
      return Value(None{});
  }
}

std::string_view type_name(const Value& value) {
  if (value.is_undefined()) return "undefined";
  if (value.is_none()) return "none";
  if (value.as_bool()) return "bool";
  if (value.as_int()) return "int";
  if (value.as_double()) return "float";
  if (value.as_string()) return "str";
  if (value.as_list()) return value.as_list()->tuple ? "tuple" : "list";
  if (value.as_dict()) return "dict";
  return value.as_object()->type();
}

bool truth(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_number()) return number(value) != 0;
  const auto n = length(value);
  return !n || *n != 0;
}

std::optional<size_t> length(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.as_string()) return count_code_points(*value.as_string());
  if (value.as_list()) return value.as_list()->items.size();
  if (value.as_dict()) return value.as_dict()->entries.size();
  return std::nullopt;
}

std::string to_text(const Value& value, Budget& budget) {
  if (value.is_undefined()) return "";
  if (const std::string* text = value.as_string()) {
    budget.spend(text->size());
    return *text;
  }
  return to_repr(value, budget);
}

std::string to_repr(const Value& value, Budget& budget) {
  budget.spend(kElementCost);
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "None";
  if (const bool* b = value.as_bool()) return *b ? "True" : "False";
  if (const int64_t* i = value.as_int()) return cat(*i);
  if (const double* d = value.as_double()) return format_double(*d);
  if (const std::string* text = value.as_string()) {
    budget.spend(text->size(), 10);  // the longest escape
    return quote(*text);
  }
  std::string out;
  if (const List* list = value.as_list()) {
    for (const Value& item : list->items) out += (out.empty() ? "" : ", ") + to_repr(item, budget);
    budget.spend(out.size());
    if (!list->tuple) return "[" + out + "]";
    return "(" + out + (list->items.size() == 1 ? ",)" : ")");
  }
  if (const Dict* dict = value.as_dict()) {
    for (const auto& [key, item] : dict->entries)
      out += (out.empty() ? "" : ", ") + to_repr(key, budget) + ": " + to_repr(item, budget);
    budget.spend(out.size());
    return "{" + out + "}";
  }
  unsupported(cat("printing a ", type_name(value)));
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.spend(1);
  if (a.is_integral() && b.is_integral()) return integer(a) == integer(b);
  if (a.is_number() && b.is_number()) return number(a) == number(b);
  if (a.is_undefined() || a.is_none()) return type_name(a) == type_name(b);
  if (a.as_string() && b.as_string()) {
    budget.spend(std::min(a.as_string()->size(), b.as_string()->size()) / 16);
    return *a.as_string() == *b.as_string();
  }
  if (a.as_list() && b.as_list()) {
    const auto &x = a.as_list()->items, &y = b.as_list()->items;
    return a.as_list()->tuple == b.as_list()->tuple &&
           std::equal(x.begin(), x.end(), y.begin(), y.end(),
                      [&](const Value& p, const Value& q) { return equal(p, q, budget); });
  }
  if (a.as_dict() && b.as_dict()) {
    const Dict &x = *a.as_dict(), &y = *b.as_dict();
    return x.entries.size() == y.entries.size() &&
           std::all_of(x.entries.begin(), x.entries.end(), [&](const auto& entry) {
             const Value* other = find_key(y, entry.first, budget);
             return other && equal(entry.second, *other, budget);
           });
  }
  return a.as_object() && a.as_object() == b.as_object();
}

int compare(const Value& a, const Value& b, Budget& budget) {
  budget.spend(1);
  const auto order = [](const auto& x, const auto& y) { return x < y ? -1 : y < x ? 1 : 0; };
  if (a.is_integral() && b.is_integral()) return order(integer(a), integer(b));
  if (a.is_number() && b.is_number()) return order(number(a), number(b));
  if (a.as_string() && b.as_string()) {
    budget.spend(std::min(a.as_string()->size(), b.as_string()->size()) / 16);
    return order(*a.as_string(), *b.as_string());  // UTF-8 sorts like code points
  }
  if (a.as_list() && b.as_list()) {
    const auto &x = a.as_list()->items, &y = b.as_list()->items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
      if (!equal(x[i], y[i], budget)) return compare(x[i], y[i], budget);
    return order(x.size(), y.size());
  }
  fail(cat("a ", type_name(a), " and a ", type_name(b), " have no order"));
}

bool is_iterable(const Value& value) { return length(value).has_value(); }

std::vector<Value> iterate(const Value& value, Budget& budget) {
  if (!is_iterable(value)) fail(cat("a value of type ", type_name(value), " cannot be iterated"));
  budget.spend(*length(value), kElementCost);
  std::vector<Value> items;
  if (const List* list = value.as_list()) return list->items;
  if (const Dict* dict = value.as_dict())
    for (const auto& entry : dict->entries) items.push_back(entry.first);
  if (const std::string* text = value.as_string())
    for (size_t i = 0; i < text->size();) {
      const size_t begin = i;
      next_code_point(*text, i);
      items.emplace_back(text->substr(begin, i - begin));
    }
  return items;
}

bool is_in(const Value& item, const Value& container, Budget& budget) {
  if (container.is_undefined()) return false;
  if (const List* list = container.as_list())
    return std::any_of(list->items.begin(), list->items.end(),
                       [&](const Value& other) { return equal(item, other, budget); });
  if (const Dict* dict = container.as_dict()) return find_key(*dict, item, budget) != nullptr;
  if (const std::string* text = container.as_string()) {
    if (!item.as_string()) fail(cat("'in' needs a string to look for in a string, found ", type_name(item)));
    budget.spend(text->size());
    return text->find(*item.as_string()) != std::string::npos;
  }
  fail(cat("'in' needs a list, a dictionary or a string, found ", type_name(container)));
}

const Value* find_key(const Dict& dict, const Value& key, Budget& budget) {
  for (const auto& [name, value] : dict.entries)
    if (equal(name, key, budget)) return &value;
  return nullptr;
}

const Value* find_key(const Dict& dict, std::string_view key, Budget& budget) {
  budget.spend(dict.entries.size());
  for (const auto& [name, value] : dict.entries)
    if (name.as_string() && *name.as_string() == key) return &value;
  return nullptr;
}

std::string to_json(const Value& value, const JsonStyle& style, Budget& budget) {
  JsonWriter writer(style, budget);
  writer.write(value);
  return writer.take();
}

int64_t get_int(const Value& value, std::string_view what) {
  if (!value.is_integral()) fail(cat(what, " should be an integer, found ", type_name(value)));
  return integer(value);
}

double get_double(const Value& value, std::string_view what) {
  if (!value.is_number()) fail(cat(what, " should be a number, found ", type_name(value)));
  return number(value);
}

const std::string& get_text(const Value& value, std::string_view what) {
  if (!value.as_string()) fail(cat(what, " should be a string, found ", type_name(value)));
  return *value.as_string();
}

}  // namespace nibble::jinja
