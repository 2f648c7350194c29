// Filters: value | name(arguments), with the parameters of Jinja's and transformers' own.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "model/jinja_interpreter.h"

namespace nibble::jinja {
namespace {

using In = const Value&;
using Args = const Arguments&;

std::string text_of(Interpreter& in, In value) { return to_text(value, in.budget()); }
bool flag(const Value* value, bool absent) { return value ? truth(*value) : absent; }

template <std::string (*map)(std::string_view)>
Value map_case(Interpreter& in, In value, Args args) {
  args.bind("the filter", {}, 0);
  return Value(map(text_of(in, value)));
}

Value trim(Interpreter& in, In value, Args args) {
  const auto p = args.bind("trim", {"chars"}, 0);
  const std::string* chars = p[0] && !p[0]->is_none() ? &get_text(*p[0], "trim's chars") : nullptr;
  const std::string text = text_of(in, value);
  if (chars) in.budget().spend(text.size(), chars->size());
  return Value(std::string(strip(text, chars, true, true)));
}

Value length_filter(Interpreter&, In value, Args args) {
  args.bind("length", {}, 0);
  const auto n = length(value);
  if (!n) fail(cat("a value of type ", type_name(value), " has no length"));
  return Value::size(*n);
}

Value default_filter(Interpreter&, In value, Args args) {
  const auto p = args.bind("default", {"default_value", "boolean"}, 0);
  const bool replaced = value.is_undefined() || (flag(p[1], false) && !truth(value));
  if (!replaced) return value;
  return p[0] ? *p[0] : Value(std::string());
}

Value tojson(Interpreter& in, In value, Args args) {
  const auto p = args.bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, 0);
  JsonStyle style;
  style.ensure_ascii = flag(p[0], false);
  style.sort_keys = flag(p[3], false);
  if (p[1] && !p[1]->is_none()) {
    style.indent =
        p[1]->as_string()
            ? *p[1]->as_string()
            : std::string(static_cast<size_t>(std::clamp<int64_t>(get_int(*p[1], "tojson's indent"), 0, 64)), ' ');
    style.item_separator.assign(1, ',');
  }
  if (p[2] && !p[2]->is_none()) {
    const std::vector<Value> pair = iterate(*p[2], in.budget());
    if (pair.size() != 2) fail("tojson's separators should be two strings");
    style.item_separator = get_text(pair[0], "tojson's item separator");
    style.key_separator = get_text(pair[1], "tojson's key separator");
  }
  return Value(to_json(value, style, in.budget()));
}

// A function that gets "a.b.0" of a value; nothing to get: the value itself.
Value get_path(Interpreter& in, In value, const Value* path) {
  if (!path || path->is_none()) return value;
  if (path->is_integral()) return in.item(value, *path);
  Value at = value;
  const std::string separator = ".";
  for (std::string& part :
       split_text(get_text(*path, "an attribute"), &separator, std::numeric_limits<size_t>::max(), false)) {
    int64_t index = 0;
    const auto [end, status] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool number = status == std::errc() && end == part.data() + part.size() && index >= 0;
    at = in.item(at, number ? Value(index) : Value(std::move(part)));
  }
  return at;
}

Value join_filter(Interpreter& in, In value, Args args) {
  const auto p = args.bind("join", {"d", "attribute"}, 0);
  const std::string separator = p[0] ? text_of(in, *p[0]) : "";
  std::string out;
  bool first = true;
  for (const Value& item : iterate(value, in.budget())) {
    in.budget().spend(separator.size());
    if (!std::exchange(first, false)) out += separator;
    out += text_of(in, get_path(in, item, p[1]));
  }
  return Value(std::move(out));
}

Value replace_filter(Interpreter& in, In value, Args args) {
  const auto p = args.bind("replace", {"old", "new", "count"}, 2);
  const int64_t count = p[2] && !p[2]->is_none() ? get_int(*p[2], "replace's count") : -1;
  const size_t most = count < 0 ? std::numeric_limits<size_t>::max() : static_cast<size_t>(count);
  return Value(replace_text(text_of(in, value), text_of(in, *p[0]), text_of(in, *p[1]), most, in.budget()));
}

// The rest of map's, select's and reject's arguments after the first `skip` ones, for the filter or test they name.
Arguments rest(Args args, size_t skip) {
  return {{args.positional.begin() + static_cast<std::ptrdiff_t>(std::min(skip, args.positional.size())),
           args.positional.end()},
          args.named};
}

Value map_filter(Interpreter& in, In value, Args args) {
  std::vector<Value> out;
  if (args.positional.empty()) {
    const auto p = args.bind("map", {"attribute", "default"}, 1);
    for (const Value& item : iterate(value, in.budget())) {
      Value got = get_path(in, item, p[0]);
      if (got.is_undefined() && p[1])
        out.push_back(*p[1]);
      else
        out.push_back(std::move(got));
    }
    return make_list(std::move(out));
  }
  const std::string& name = get_text(args.positional[0], "map's filter");
  const Arguments given = rest(args, 1);
  for (const Value& item : iterate(value, in.budget())) out.push_back(in.apply_filter(name, item, given));
  return make_list(std::move(out));
}

// select, reject (by_attribute: selectattr, rejectattr): keeps the items whose test equals `wanted`.
template <bool wanted, bool by_attribute>
Value select(Interpreter& in, In value, Args args) {
  const size_t skip = by_attribute ? 1 : 0;
  if (args.positional.size() < skip) fail("selectattr and rejectattr need an attribute");
  const Value* path = by_attribute ? &args.positional[0] : nullptr;
  const bool has_test = args.positional.size() > skip;
  const std::string test = has_test ? get_text(args.positional[skip], "the test") : "";
  const Arguments given = rest(args, skip + 1);
  std::vector<Value> out;
  for (const Value& item : iterate(value, in.budget())) {
    const Value subject = get_path(in, item, path);
    if ((has_test ? in.apply_test(test, subject, given) : truth(subject)) == wanted) out.push_back(item);
  }
  return make_list(std::move(out));
}

Value first(Interpreter& in, In value, Args args) {
  args.bind("first", {}, 0);
  const std::vector<Value> items = iterate(value, in.budget());
  return items.empty() ? Value(Undefined{"the first item of nothing"}) : items.front();
}

Value last(Interpreter& in, In value, Args args) {
  args.bind("last", {}, 0);
  const std::vector<Value> items = iterate(value, in.budget());
  return items.empty() ? Value(Undefined{"the last item of nothing"}) : items.back();
}

Value list_filter(Interpreter& in, In value, Args args) {
  args.bind("list", {}, 0);
  return make_list(iterate(value, in.budget()));
}

Value items_filter(Interpreter& in, In value, Args args) {
  args.bind("items", {}, 0);
  if (value.is_undefined()) return make_list({});
  if (!value.as_dict()) fail(cat("items needs a dictionary, found ", type_name(value)));
  return in.call(in.attribute(value, "items"), {});
}

Value string_filter(Interpreter& in, In value, Args args) {
  args.bind("string", {}, 0);
  return Value(text_of(in, value));
}

Value safe(Interpreter&, In value, Args) { return value; }  // nothing is escaped anyway

Value reverse(Interpreter& in, In value, Args args) {
  args.bind("reverse", {}, 0);
  if (value.as_string()) return slice(value, Value(None{}), Value(None{}), Value(int64_t{-1}), in.budget());
  std::vector<Value> items = iterate(value, in.budget());
  std::reverse(items.begin(), items.end());
  return make_list(std::move(items));
}

// What sort, unique, min and max compare: an attribute, strings without regard to case unless asked.
Value sort_key(Interpreter& in, In item, const Value* path, bool case_sensitive) {
  Value key = get_path(in, item, path);
  if (case_sensitive || !key.as_string()) return key;
  in.budget().spend(key.as_string()->size());
  return Value(lower_case(*key.as_string()));
}

std::vector<Value> sorted(Interpreter& in, const std::vector<Value>& items, bool backwards,
                          const std::vector<Value>& keys) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const int c = compare(keys[a], keys[b], in.budget());
    return backwards ? c > 0 : c < 0;
  });
  std::vector<Value> out;
  out.reserve(order.size());
  for (size_t i : order) out.push_back(items[i]);
  return out;
}

Value sort(Interpreter& in, In value, Args args) {
  const auto p = args.bind("sort", {"reverse", "case_sensitive", "attribute"}, 0);
  const std::vector<Value> items = iterate(value, in.budget());
  std::vector<Value> keys;
  keys.reserve(items.size());
  for (const Value& item : items) keys.push_back(sort_key(in, item, p[2], flag(p[1], false)));
  return make_list(sorted(in, items, flag(p[0], false), keys));
}

Value dictsort(Interpreter& in, In value, Args args) {
  const auto p = args.bind("dictsort", {"case_sensitive", "by", "reverse"}, 0);
  const std::string by = p[1] ? get_text(*p[1], "dictsort's by") : "key";
  if (by != "key" && by != "value") fail("dictsort's by should be 'key' or 'value'");
  const std::vector<Value> items = iterate(items_filter(in, value, {}), in.budget());
  const Value index(int64_t{by == "key" ? 0 : 1});
  std::vector<Value> keys;
  keys.reserve(items.size());
  for (const Value& item : items) keys.push_back(sort_key(in, item, &index, flag(p[0], false)));
  return make_list(sorted(in, items, flag(p[2], false), keys));
}

Value unique(Interpreter& in, In value, Args args) {
  const auto p = args.bind("unique", {"case_sensitive", "attribute"}, 0);
  std::vector<Value> out, seen;
  for (const Value& item : iterate(value, in.budget())) {
    Value key = sort_key(in, item, p[1], flag(p[0], false));
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& other) { return equal(other, key, in.budget()); }))
      continue;
    seen.push_back(std::move(key));
    out.push_back(item);
  }
  return make_list(std::move(out));
}

template <int sign>
Value extreme(Interpreter& in, In value, Args args) {
  const auto p = args.bind("min and max", {"case_sensitive", "attribute"}, 0);
  const std::vector<Value> items = iterate(value, in.budget());
  if (items.empty()) return Value(Undefined{"the extreme of nothing"});
  const Value* best = nullptr;
  Value best_key;
  for (const Value& item : items) {
    Value key = sort_key(in, item, p[1], flag(p[0], false));
    if (best && sign * compare(key, best_key, in.budget()) <= 0) continue;
    best = &item;
    best_key = std::move(key);
  }
  return *best;
}

Value sum(Interpreter& in, In value, Args args) {
  const auto p = args.bind("sum", {"attribute", "start"}, 0);
  Value total = p[1] ? *p[1] : Value(int64_t{0});
  for (const Value& item : iterate(value, in.budget()))
    total = arithmetic("+", total, get_path(in, item, p[0]), in.budget());
  return total;
}

Value abs_filter(Interpreter& in, In value, Args args) {
  args.bind("abs", {}, 0);
  if (value.as_double()) return Value(std::abs(*value.as_double()));
  return get_int(value, "abs's input") < 0 ? arithmetic("-", Value(int64_t{0}), value, in.budget())
                                           : arithmetic("+", Value(int64_t{0}), value, in.budget());
}

Value round_filter(Interpreter&, In value, Args args) {
  const auto p = args.bind("round", {"precision", "method"}, 0);
  const std::string method = p[1] ? get_text(*p[1], "round's method") : "common";
  const double x = get_double(value, "round's input");
  const double unit = std::pow(10.0, static_cast<double>(p[0] ? get_int(*p[0], "round's precision") : 0));
  if (method == "ceil") return Value(std::ceil(x * unit) / unit);
  if (method == "floor") return Value(std::floor(x * unit) / unit);
  if (method != "common") fail("round's method should be 'common', 'ceil' or 'floor'");
  return Value(std::nearbyint(x * unit) / unit);
}

Value int_filter(Interpreter&, In value, Args args) {
  const auto p = args.bind("int", {"default", "base"}, 0);
  Value absent = p[0] ? *p[0] : Value(int64_t{0});
  if (value.is_integral()) return Value(get_int(value, "int's input"));
  double number = std::nan("");
  if (value.as_double()) number = *value.as_double();
  if (const std::string* text = value.as_string()) {
    std::string_view digits = strip(*text, nullptr, true, true);
    if (digits.starts_with('+')) digits.remove_prefix(1);
    const char* end = digits.data() + digits.size();
    int64_t whole = 0;
    const auto base = static_cast<int>(p[1] ? std::clamp<int64_t>(get_int(*p[1], "int's base"), 2, 36) : 10);
    const auto as_int = std::from_chars(digits.data(), end, whole, base);
    if (as_int.ec == std::errc() && as_int.ptr == end) return Value(whole);
    const auto as_double = std::from_chars(digits.data(), end, number);
    if (as_double.ec != std::errc() || as_double.ptr != end) return absent;
  }
  if (!(std::abs(number) < 9.2e18)) return absent;
  return Value(static_cast<int64_t>(number));
}

Value float_filter(Interpreter&, In value, Args args) {
  const auto p = args.bind("float", {"default"}, 0);
  if (value.is_number()) return Value(get_double(value, "float's input"));
  if (const std::string* text = value.as_string()) {
    const std::string_view digits = strip(*text, nullptr, true, true);
    double number = 0;
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (status == std::errc() && end == digits.data() + digits.size()) return Value(number);
  }
  return p[0] ? *p[0] : Value(0.0);
}

Value indent(Interpreter& in, In value, Args args) {
  const auto p = args.bind("indent", {"width", "first", "blank"}, 0);
  std::string prefix(4, ' ');
  if (p[0])
    prefix =
        p[0]->as_string()
            ? *p[0]->as_string()
            : std::string(static_cast<size_t>(std::clamp<int64_t>(get_int(*p[0], "indent's width"), 0, 1000)), ' ');
  const std::vector<std::string> lines = split_lines(text_of(in, value) + "\n", false);
  in.budget().spend(lines.size(), prefix.size() + 1);
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    const bool indented = i == 0 ? flag(p[1], false) : flag(p[2], false) || !lines[i].empty();
    if (indented) out += prefix;
    out += lines[i];
  }
  return Value(std::move(out));
}

struct Entry {
  std::string_view name;
  Filter filter;
};

constexpr Entry kFilters[] = {
    {"abs", abs_filter},
    {"capitalize", map_case<capitalize>},
    {"count", length_filter},
    {"d", default_filter},
    {"default", default_filter},
    {"dictsort", dictsort},
    {"first", first},
    {"float", float_filter},
    {"indent", indent},
    {"int", int_filter},
    {"items", items_filter},
    {"join", join_filter},
    {"last", last},
    {"length", length_filter},
    {"list", list_filter},
    {"lower", map_case<lower_case>},
    {"map", map_filter},
    {"max", extreme<1>},
    {"min", extreme<-1>},
    {"reject", select<false, false>},
    {"rejectattr", select<false, true>},
    {"replace", replace_filter},
    {"reverse", reverse},
    {"round", round_filter},
    {"safe", safe},
    {"select", select<true, false>},
    {"selectattr", select<true, true>},
    {"sort", sort},
    {"string", string_filter},
    {"sum", sum},
    {"title", map_case<title_words>},
    {"tojson", tojson},
    {"trim", trim},
    {"unique", unique},
    {"upper", map_case<upper_case>},
};

}  // namespace

Filter find_filter(std::string_view name) {
  const auto* entry =
      std::find_if(std::begin(kFilters), std::end(kFilters), [&](const Entry& e) { return e.name == name; });
  return entry == std::end(kFilters) ? nullptr : entry->filter;
}

}  // namespace nibble::jinja
