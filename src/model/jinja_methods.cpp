// Methods of strings, lists and dictionaries, and the global functions.
#include <algorithm>
#include <ctime>
#include <limits>

#include "model/jinja_interpreter.h"

namespace nibble::jinja {
namespace {

using In = const Value&;
using Args = const Arguments&;
using Method = Value (*)(Interpreter& interpreter, In self, Args arguments);

constexpr size_t kUnlimited = std::numeric_limits<size_t>::max();
constexpr int64_t kMaxRange = 100000;  // as in Jinja's sandbox

const std::string& str(In self) { return *self.as_string(); }

size_t limit(const Value* count, std::string_view what) {
  const int64_t n = count ? get_int(*count, what) : -1;
  return n < 0 ? kUnlimited : static_cast<size_t>(n);
}

const std::string* optional_text(const Value* value, std::string_view what) {
  return value && !value->is_none() ? &get_text(*value, what) : nullptr;
}

template <bool left, bool right>
Value strip_method(Interpreter& in, In self, Args args) {
  const std::string* chars = optional_text(args.bind("strip", {"chars"}, 0)[0], "strip's chars");
  if (chars) in.budget().spend(str(self).size(), chars->size());
  return Value(std::string(strip(str(self), chars, left, right)));
}

template <bool from_right>
Value split_method(Interpreter& in, In self, Args args) {
  const auto p = args.bind("split", {"sep", "maxsplit"}, 0);
  const std::string* separator = optional_text(p[0], "split's separator");
  if (separator && separator->empty()) fail("split's separator is empty");
  in.budget().spend(str(self).size(), 32);
  return make_strings(split_text(str(self), separator, limit(p[1], "split's maxsplit"), from_right));
}

Value splitlines(Interpreter& in, In self, Args args) {
  const auto p = args.bind("splitlines", {"keepends"}, 0);
  in.budget().spend(str(self).size(), 32);
  return make_strings(split_lines(str(self), p[0] && truth(*p[0])));
}

// startswith, endswith: one string or a tuple of them.
template <bool at_end>
Value affix(Interpreter& in, In self, Args args) {
  const Value& wanted = *args.bind(at_end ? "endswith" : "startswith", {"prefix"}, 1)[0];
  const auto matches = [&](In part) {
    const std::string& text = get_text(part, "the prefix or suffix");
    in.budget().spend(1 + text.size() / 16);
    return at_end ? str(self).ends_with(text) : str(self).starts_with(text);
  };
  if (wanted.as_list())
    return Value(std::any_of(wanted.as_list()->items.begin(), wanted.as_list()->items.end(), matches));
  return Value(matches(wanted));
}

template <bool at_end>
Value remove_affix(Interpreter&, In self, Args args) {
  const std::string& part =
      get_text(*args.bind("removeprefix and removesuffix", {"prefix"}, 1)[0], "the prefix or suffix");
  if (part.empty() || !(at_end ? str(self).ends_with(part) : str(self).starts_with(part))) return self;
  return Value(at_end ? str(self).substr(0, str(self).size() - part.size()) : str(self).substr(part.size()));
}

Value replace_method(Interpreter& in, In self, Args args) {
  const auto p = args.bind("replace", {"old", "new", "count"}, 2);
  return Value(replace_text(str(self), get_text(*p[0], "replace's old"), get_text(*p[1], "replace's new"),
                            limit(p[2], "replace's count"), in.budget()));
}

template <std::string (*map)(std::string_view)>
Value map_method(Interpreter&, In self, Args args) {
  args.bind("the method", {}, 0);
  return Value(map(str(self)));
}

template <bool from_right, bool must_exist>
Value find_text(Interpreter&, In self, Args args) {
  const std::string& part = get_text(*args.bind("find", {"sub"}, 1)[0], "the text to find");
  const size_t at = from_right ? str(self).rfind(part) : str(self).find(part);
  if (at == std::string::npos && must_exist) fail(cat("index: ", quote(part), " is not in the string"));
  if (at == std::string::npos) return Value(int64_t{-1});
  return Value::size(count_code_points(std::string_view(str(self)).substr(0, at)));
}

Value count_text(Interpreter&, In self, Args args) {
  const std::string& part = get_text(*args.bind("count", {"sub"}, 1)[0], "the text to count");
  if (part.empty()) return Value::size(count_code_points(str(self)) + 1);
  size_t count = 0;
  for (size_t at = str(self).find(part); at != std::string::npos; at = str(self).find(part, at + part.size())) ++count;
  return Value::size(count);
}

Value join_method(Interpreter& in, In self, Args args) {
  std::string out;
  bool first = true;
  for (const Value& item : iterate(*args.bind("join", {"iterable"}, 1)[0], in.budget())) {
    const std::string& text = get_text(item, "an item of join");
    in.budget().spend(text.size() + str(self).size());
    if (!std::exchange(first, false)) out += str(self);
    out += text;
  }
  return Value(std::move(out));
}

// str.format with {}, {0} and {name}; conversions and format specifications are refused.
Value format_method(Interpreter& in, In self, Args args) {
  const std::string& text = str(self);
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if ((c == '{' || c == '}') && i + 1 < text.size() && text[i + 1] == c) {
      out += text[i++];
    } else if (c == '{') {
      const size_t end = text.find('}', i);
      if (end == std::string::npos) fail("format: '{' without '}'");
      const std::string field = text.substr(i + 1, end - i - 1);
      i = end;
      const bool number =
          !field.empty() && field.size() < 6 && field.find_first_not_of("0123456789") == std::string::npos;
      if (field.empty() || number) {
        const size_t index = number ? std::stoul(field) : next++;
        if (index >= args.positional.size()) fail(cat("format: there is no argument ", index));
        out += to_text(args.positional[index], in.budget());
        continue;
      }
      if (field.find_first_of("{.[:!") != std::string::npos) unsupported(cat("format with the field {", field, "}"));
      const auto named =
          std::find_if(args.named.begin(), args.named.end(), [&](const auto& entry) { return entry.first == field; });
      if (named == args.named.end()) fail(cat("format: there is no argument '", field, "'"));
      out += to_text(named->second, in.budget());
    } else if (c == '}') {
      fail("format: '}' without '{'");
    } else {
      out += c;
    }
  }
  return Value(std::move(out));
}

// isdigit, isspace, ...: not empty, and every character is of the class.
template <bool (*check)(char32_t)>
Value all_characters(Interpreter&, In self, Args args) {
  args.bind("the method", {}, 0);
  const std::string& text = str(self);
  for (size_t i = 0; i < text.size();)
    if (!check(next_code_point(text, i))) return Value(false);
  return Value(!text.empty());
}
bool is_ascii(char32_t c) { return c < 0x80; }
bool is_alphanumeric(char32_t c) { return is_alphabetic(c) || is_decimal(c); }

template <const char* test>
Value by_test(Interpreter& in, In self, Args args) {
  args.bind(test, {}, 0);
  return Value(in.apply_test(test, self, {}));
}
constexpr char kUpper[] = "upper", kLower[] = "lower";

Value index_of(Interpreter& in, In self, Args args) {
  const Value& wanted = *args.bind("index", {"value"}, 1)[0];
  const auto& items = self.as_list()->items;
  const auto it = std::find_if(items.begin(), items.end(), [&](In item) { return equal(item, wanted, in.budget()); });
  if (it == items.end()) fail("index: the value is not in the list");
  return Value::size(static_cast<size_t>(it - items.begin()));
}

Value count_items(Interpreter& in, In self, Args args) {
  const Value& wanted = *args.bind("count", {"value"}, 1)[0];
  const auto& items = self.as_list()->items;
  return Value(static_cast<int64_t>(
      std::count_if(items.begin(), items.end(), [&](In item) { return equal(item, wanted, in.budget()); })));
}

Value get_method(Interpreter& in, In self, Args args) {
  const auto p = args.bind("get", {"key", "default"}, 1);
  if (const Value* value = find_key(*self.as_dict(), *p[0], in.budget())) return *value;
  return p[1] ? *p[1] : Value(None{});
}

template <bool keys, bool values>
Value entries(Interpreter& in, In self, Args args) {
  args.bind("items, keys and values", {}, 0);
  std::vector<Value> out;
  in.budget().spend(self.as_dict()->entries.size(), 100);
  for (const auto& [key, value] : self.as_dict()->entries) {
    if (keys && values)
      out.push_back(make_list({key, value}, true));
    else
      out.push_back(keys ? key : value);
  }
  return make_list(std::move(out));
}

Value copy(Interpreter&, In self, Args args) {
  args.bind("copy", {}, 0);
  return self;  // values never change
}

struct Entry {
  std::string_view name;
  Method method;  // null: Python has it, templates may not use it here
};

constexpr Entry kStringMethods[] = {
    {"capitalize", map_method<capitalize>},
    {"casefold", nullptr},
    {"center", nullptr},
    {"count", count_text},
    {"encode", nullptr},
    {"endswith", affix<true>},
    {"expandtabs", nullptr},
    {"find", find_text<false, false>},
    {"format", format_method},
    {"format_map", nullptr},
    {"index", find_text<false, true>},
    {"isalnum", all_characters<is_alphanumeric>},
    {"isalpha", all_characters<is_alphabetic>},
    {"isascii", all_characters<is_ascii>},
    {"isdecimal", all_characters<is_decimal>},
    {"isdigit", all_characters<is_decimal>},
    {"isidentifier", nullptr},
    {"islower", by_test<kLower>},
    {"isnumeric", all_characters<is_decimal>},
    {"isprintable", nullptr},
    {"isspace", all_characters<is_space>},
    {"istitle", nullptr},
    {"isupper", by_test<kUpper>},
    {"join", join_method},
    {"ljust", nullptr},
    {"lower", map_method<lower_case>},
    {"lstrip", strip_method<true, false>},
    {"maketrans", nullptr},
    {"partition", nullptr},
    {"removeprefix", remove_affix<false>},
    {"removesuffix", remove_affix<true>},
    {"replace", replace_method},
    {"rfind", find_text<true, false>},
    {"rindex", find_text<true, true>},
    {"rjust", nullptr},
    {"rpartition", nullptr},
    {"rsplit", split_method<true>},
    {"rstrip", strip_method<false, true>},
    {"split", split_method<false>},
    {"splitlines", splitlines},
    {"startswith", affix<false>},
    {"strip", strip_method<true, true>},
    {"swapcase", nullptr},
    {"title", map_method<title_case>},
    {"translate", nullptr},
    {"upper", map_method<upper_case>},
    {"zfill", nullptr},
};

constexpr Entry kListMethods[] = {
    {"append", nullptr}, {"clear", nullptr},   {"copy", copy},      {"count", count_items},
    {"extend", nullptr}, {"index", index_of},  {"insert", nullptr}, {"pop", nullptr},
    {"remove", nullptr}, {"reverse", nullptr}, {"sort", nullptr},
};

constexpr Entry kDictMethods[] = {
    {"clear", nullptr},
    {"copy", copy},
    {"fromkeys", nullptr},
    {"get", get_method},
    {"items", entries<true, true>},
    {"keys", entries<true, false>},
    {"pop", nullptr},
    {"popitem", nullptr},
    {"setdefault", nullptr},
    {"update", nullptr},
    {"values", entries<false, true>},
};

class BoundMethod final : public Object {
 public:
  BoundMethod(Value self, Method method) : self_(std::move(self)), method_(method) {}
  std::string_view type() const override { return "method"; }
  bool callable() const override { return true; }
  size_t depth() const override { return depth_of(self_); }
  Value call(Interpreter& interpreter, const Arguments& arguments) const override {
    if (self_.as_string()) interpreter.budget().spend(self_.as_string()->size());
    return method_(interpreter, self_, arguments);
  }

 private:
  Value self_;
  Method method_;
};

template <size_t n>
std::optional<Value> bind_method(const Entry (&table)[n], In self, std::string_view name) {
  const auto* entry = std::find_if(std::begin(table), std::end(table), [&](const Entry& e) { return e.name == name; });
  if (entry == std::end(table)) return std::nullopt;
  if (!entry->method)
    unsupported(cat("the method '", name, "' of a ", type_name(self), " is not known, or not allowed in templates"));
  return Value(std::shared_ptr<Object>(std::make_shared<BoundMethod>(self, entry->method)));
}

// ---- global functions

class Function final : public Object {
 public:
  using Body = Value (*)(Interpreter&, Args);
  explicit Function(Body body) : body_(body) {}
  std::string_view type() const override { return "function"; }
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, const Arguments& arguments) const override {
    return body_(interpreter, arguments);
  }

 private:
  Body body_;
};

Value range(Interpreter& in, Args args) {
  const auto p = args.bind("range", {"start", "stop", "step"}, 1);
  const int64_t start = p[1] ? get_int(*p[0], "range's start") : 0;
  const int64_t stop = get_int(p[1] ? *p[1] : *p[0], "range's stop");
  const int64_t step = p[2] ? get_int(*p[2], "range's step") : 1;
  if (step == 0) fail("range's step is 0");
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (items.size() >= kMaxRange) unsupported(cat("a range of more than ", kMaxRange, " numbers"));
    in.budget().spend(32);
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return make_list(std::move(items));
}

Value dict_function(Interpreter& in, Args args) {
  std::vector<std::pair<Value, Value>> out;
  if (args.positional.size() > 1) fail("dict takes at most 1 positional argument");
  if (!args.positional.empty()) {
    if (!args.positional[0].as_dict()) unsupported("dict() of something else than a dictionary");
    out = args.positional[0].as_dict()->entries;
  }
  for (const auto& [name, value] : args.named) out.emplace_back(Value(name), value);
  return make_dict(std::move(out), in.budget());
}

Value raise_exception(Interpreter& in, Args args) {
  throw Error(ErrorKind::kUsage, cat("the template refuses this conversation: ",
                                     to_text(*args.bind("raise_exception", {"message"}, 1)[0], in.budget())));
}

Value strftime_now(Interpreter&, Args args) {
  const std::string& format = get_text(*args.bind("strftime_now", {"format"}, 1)[0], "strftime_now's format");
  if (format.empty()) return Value(std::string());
  if (format.size() > 200) unsupported("a date format of more than 200 bytes");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::string out(100 * format.size(), '\0');  // no conversion writes more than that
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
  return Value(std::move(out));
}

Value namespace_function(Interpreter& in, Args args) { return in.make_namespace(args); }

}  // namespace

std::optional<Value> find_method(const Value& self, std::string_view name) {
  if (self.as_string()) return bind_method(kStringMethods, self, name);
  if (self.as_list()) return bind_method(kListMethods, self, name);
  if (self.as_dict()) return bind_method(kDictMethods, self, name);
  return std::nullopt;
}

Value find_function(std::string_view name) {
  constexpr std::pair<std::string_view, Function::Body> kFunctions[] = {{"dict", dict_function},
                                                                        {"namespace", namespace_function},
                                                                        {"raise_exception", raise_exception},
                                                                        {"range", range},
                                                                        {"strftime_now", strftime_now}};
  for (const auto& [known, body] : kFunctions)
    if (known == name) return Value(std::shared_ptr<Object>(std::make_shared<Function>(body)));
  return {};
}

}  // namespace nibble::jinja
