#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/json.h"
#include "model/jinja_text.h"

// The values of templates: Python's objects as far as chat templates need them. Immutable but for namespaces, like in
// the sandbox that templates are written for. Copies share their contents.
namespace nibble::jinja {

class Interpreter;
class Value;
struct List;
struct Dict;
struct Arguments;

struct Undefined {
  std::string name;  // what was looked up, for messages
};
struct None {};

// What has attributes or can be called: namespaces, loops, macros, functions, bound methods.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string_view type() const = 0;  // "namespace", for messages
  // Null when there is no such attribute. Valid until the object changes.
  virtual std::optional<Value> attribute(std::string_view name) const;
  virtual bool callable() const { return false; }
  virtual Value call(Interpreter& interpreter, const Arguments& arguments) const;
  // Levels of lists and dictionaries that it keeps alive by itself.
  virtual size_t depth() const { return 0; }
};

class Value {
 public:
  using Storage = std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const std::string>,
                               std::shared_ptr<const List>, std::shared_ptr<const Dict>, std::shared_ptr<Object>>;

  Value() = default;  // undefined
  explicit Value(Undefined undefined) : storage_(std::move(undefined)) {}
  explicit Value(None none) : storage_(none) {}
  explicit Value(std::same_as<bool> auto value) : storage_(value) {}
  explicit Value(int64_t value) : storage_(value) {}
  explicit Value(double value) : storage_(value) {}
  explicit Value(std::string text) : storage_(std::make_shared<const std::string>(std::move(text))) {}
  explicit Value(std::shared_ptr<const List> list) : storage_(std::move(list)) {}
  explicit Value(std::shared_ptr<const Dict> dict) : storage_(std::move(dict)) {}
  explicit Value(std::shared_ptr<Object> object) : storage_(std::move(object)) {}
  static Value size(size_t n) { return Value(static_cast<int64_t>(n)); }

  bool is_undefined() const { return std::holds_alternative<Undefined>(storage_); }
  bool is_none() const { return std::holds_alternative<None>(storage_); }
  bool is_number() const { return is_integral() || as_double(); }  // bool included
  bool is_integral() const { return as_bool() || as_int(); }       // bool included
  const Undefined* as_undefined() const { return std::get_if<Undefined>(&storage_); }
  const bool* as_bool() const { return std::get_if<bool>(&storage_); }
  const int64_t* as_int() const { return std::get_if<int64_t>(&storage_); }
  const double* as_double() const { return std::get_if<double>(&storage_); }
  const std::string* as_string() const { return pointee<const std::string>(); }
  const List* as_list() const { return pointee<const List>(); }
  const Dict* as_dict() const { return pointee<const Dict>(); }
  Object* as_object() const { return pointee<Object>(); }

 private:
  template <class T>
  T* pointee() const {
    const auto* p = std::get_if<std::shared_ptr<T>>(&storage_);
    return p ? p->get() : nullptr;
  }
  Storage storage_;
};

struct List {
  std::vector<Value> items;
  bool tuple = false;
  size_t depth = 1;  // of nested lists and dictionaries; limited, so that walks and destructors may recurse
};

struct Dict {
  std::vector<std::pair<Value, Value>> entries;  // in order of insertion; keys are scalars and unique
  size_t depth = 1;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // Pointers to the arguments in the order of `parameters`, null where absent. Throws for surplus, unknown, doubly
  // given ones, and when one of the first `required` is absent.
  std::vector<const Value*> bind(std::string_view function, const std::vector<std::string_view>& parameters,
                                 size_t required) const;
};

// Throw when nesting becomes too deep; make_dict also for keys that are not scalars. A key's last value wins.
Value make_list(std::vector<Value> items, bool tuple = false);
Value make_strings(std::vector<std::string> items);
Value make_dict(std::vector<std::pair<Value, Value>> entries, Budget& budget);
// Strings in `json` must be valid UTF-8.
Value from_json(const Json& json, Budget& budget);

size_t depth_of(const Value& value);  // 0 for scalars
// One more level around `inner` ones; throws when that is too deep for recursive walks and destructors.
size_t deeper(size_t inner);

std::string_view type_name(const Value& value);  // Python's: "str", "list", ...
bool truth(const Value& value);
// len(); nothing for values without a length.
std::optional<size_t> length(const Value& value);
// str() and repr().
std::string to_text(const Value& value, Budget& budget);
std::string to_repr(const Value& value, Budget& budget);
bool equal(const Value& a, const Value& b, Budget& budget);
// -1, 0 or 1; throws for types that have no order between them.
int compare(const Value& a, const Value& b, Budget& budget);
// What `for` sees: elements, keys, characters; nothing for an undefined value. Throws for what cannot be iterated.
std::vector<Value> iterate(const Value& value, Budget& budget);
bool is_iterable(const Value& value);
// `item in container`.
bool is_in(const Value& item, const Value& container, Budget& budget);
const Value* find_key(const Dict& dict, const Value& key, Budget& budget);
const Value* find_key(const Dict& dict, std::string_view key, Budget& budget);

struct JsonStyle {
  bool ensure_ascii = false;
  std::optional<std::string> indent;  // one level of it
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
// json.dumps().
std::string to_json(const Value& value, const JsonStyle& style, Budget& budget);

// Numbers and strings from values; throw naming `what` when the type is wrong.
int64_t get_int(const Value& value, std::string_view what);
double get_double(const Value& value, std::string_view what);
const std::string& get_text(const Value& value, std::string_view what);

// Faults of the template itself: Error(kCorrupt); what is valid but not known here: Error(kUnsupported).
[[noreturn]] void fail(const std::string& message);
[[noreturn]] void unsupported(const std::string& message);

}  // namespace nibble::jinja
