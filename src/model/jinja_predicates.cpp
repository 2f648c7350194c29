// Tests: value is name(arguments).
#include <algorithm>

#include "model/jinja_interpreter.h"

namespace nibble::jinja {
namespace {

using In = const Value&;
using Args = const Arguments&;

template <bool (*check)(In)>
bool plain(Interpreter&, In value, Args args) {
  args.bind("the test", {}, 0);
  return check(value);
}

template <bool (*check)(Interpreter&, In, In)>
bool binary(Interpreter& in, In value, Args args) {
  return check(in, value, *args.bind("the test", {"other"}, 1)[0]);
}

template <int64_t rest>
bool parity(In value) {
  return (get_int(value, "even's and odd's input") & 1) == rest;
}

bool same(Interpreter& in, In a, In b) {
  // Identity: of objects and containers by address; scalars are shared freely, so by type and value.
  if (a.as_list() || b.as_list()) return a.as_list() == b.as_list();
  if (a.as_dict() || b.as_dict()) return a.as_dict() == b.as_dict();
  return type_name(a) == type_name(b) && equal(a, b, in.budget());
}

bool divisible(Interpreter& in, In a, In b) { return !truth(arithmetic("%", a, b, in.budget())); }

// str.islower and str.isupper: some letter has a case, and none has the other one.
template <bool (*wanted)(char32_t), bool (*other)(char32_t)>
bool has_case(Interpreter& in, In value, Args) {
  const std::string text = to_text(value, in.budget());
  bool found = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_code_point(text, i);
    if (other(c)) return false;
    found = found || wanted(c);
  }
  return found;
}

enum class Relation { kEqual, kLess, kLessEqual };

// `negated` of kLessEqual is "greater", of kLess "greater or equal".
template <Relation relation, bool negated>
bool related(Interpreter& in, In a, In b) {
  if (relation == Relation::kEqual) return equal(a, b, in.budget()) != negated;
  const int order = compare(a, b, in.budget());
  return (relation == Relation::kLess ? order < 0 : order <= 0) != negated;
}

bool contained(Interpreter& in, In a, In b) { return is_in(a, b, in.budget()); }

bool is_boolean(In v) { return v.as_bool() != nullptr; }
bool is_callable(In v) { return v.as_object() && v.as_object()->callable(); }
bool is_defined(In v) { return !v.is_undefined(); }
bool is_undefined(In v) { return v.is_undefined(); }
bool is_false(In v) { return v.as_bool() && !*v.as_bool(); }
bool is_true(In v) { return v.as_bool() && *v.as_bool(); }
bool is_float(In v) { return v.as_double() != nullptr; }
bool is_integer(In v) { return v.as_int() != nullptr; }
bool is_mapping(In v) { return v.as_dict() != nullptr; }
bool is_none(In v) { return v.is_none(); }
bool is_number(In v) { return v.is_number(); }
bool is_string(In v) { return v.as_string() != nullptr; }

struct Entry {
  std::string_view name;
  Test test;
};

constexpr Test kEqual = binary<related<Relation::kEqual, false>>;
constexpr Test kNotEqual = binary<related<Relation::kEqual, true>>;
constexpr Test kLess = binary<related<Relation::kLess, false>>;
constexpr Test kLessEqual = binary<related<Relation::kLessEqual, false>>;
constexpr Test kGreater = binary<related<Relation::kLessEqual, true>>;
constexpr Test kGreaterEqual = binary<related<Relation::kLess, true>>;

constexpr Entry kTests[] = {
    {"!=", kNotEqual},
    {"<", kLess},
    {"<=", kLessEqual},
    {"==", kEqual},
    {">", kGreater},
    {">=", kGreaterEqual},
    {"boolean", plain<is_boolean>},
    {"callable", plain<is_callable>},
    {"defined", plain<is_defined>},
    {"divisibleby", binary<divisible>},
    {"eq", kEqual},
    {"equalto", kEqual},
    {"even", plain<parity<0>>},
    {"false", plain<is_false>},
    {"float", plain<is_float>},
    {"ge", kGreaterEqual},
    {"greaterthan", kGreater},
    {"gt", kGreater},
    {"in", binary<contained>},
    {"integer", plain<is_integer>},
    {"iterable", plain<is_iterable>},
    {"le", kLessEqual},
    {"lessthan", kLess},
    {"lower", has_case<is_lower, is_upper>},
    {"lt", kLess},
    {"mapping", plain<is_mapping>},
    {"ne", kNotEqual},
    {"none", plain<is_none>},
    {"number", plain<is_number>},
    {"odd", plain<parity<1>>},
    {"sameas", binary<same>},
    {"sequence", plain<is_iterable>},
    {"string", plain<is_string>},
    {"true", plain<is_true>},
    {"undefined", plain<is_undefined>},
    {"upper", has_case<is_upper, is_lower>},
};

}  // namespace

Test find_test(std::string_view name) {
  const auto* entry =
      std::find_if(std::begin(kTests), std::end(kTests), [&](const Entry& e) { return e.name == name; });
  return entry == std::end(kTests) ? nullptr : entry->test;
}

}  // namespace nibble::jinja
