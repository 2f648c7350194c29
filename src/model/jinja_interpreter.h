#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/jinja_ast.h"
#include "model/jinja_value.h"

namespace nibble::jinja {

// Names visible at one place: an inner scope hides what is outside of it, as Jinja's loops, macros and blocks do.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::map<std::string, Value, std::less<>> names;
};

// Runs one template once. All failures are Errors that start with the line and column at fault; the template's own
// raise_exception() is Error(kUsage).
class Interpreter {
 public:
  Interpreter(Budget& budget, std::map<std::string, Value, std::less<>> variables);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  // Once only. `body` outlives this object.
  std::string run(const Body& body);

  // For filters, tests, functions and macros:
  Budget& budget() { return budget_; }
  // object.name and object[key]; undefined when there is nothing. Throw when `object` is undefined.
  Value attribute(const Value& object, const std::string& name);
  Value item(const Value& object, const Value& key);
  Value call(const Value& callee, const Arguments& given);
  Value apply_filter(std::string_view name, const Value& input, const Arguments& given);
  bool apply_test(std::string_view name, const Value& input, const Arguments& given);
  Value call_macro(const Stmt& macro, const std::shared_ptr<Scope>& scope, const Arguments& given);
  Value make_namespace(const Arguments& arguments);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  struct Deeper;  // counts recursion

  Flow run_body(const Body& body);
  Flow run_statement(const Stmt& s);
  Flow run_if(const Stmt& s);
  Flow run_for(const Stmt& s);
  Flow run_with(const Stmt& s);
  void run_call_block(const Stmt& s);
  std::string collect(const Body& body);
  void assign(const Stmt& s, const Value& value);
  void bind_targets(const Stmt& s, const Value& value);
  Value make_macro(const Stmt& s);
  void print(std::string_view text);

  Value eval(const Expr& e);
  Value eval_node(const Expr& e);
  Value lookup(const std::string& name) const;
  Value eval_call(const Expr& e, const std::pair<std::string, Value>* extra);
  Value eval_slice(const Expr& e);
  Value eval_arithmetic(const Expr& e);
  Value eval_concat(const Expr& e);
  Value eval_dict(const Expr& e);
  bool eval_compare(const Expr& e);
  bool eval_operator(const std::string& op, const Value& a, const Value& b);
  Arguments arguments(const Expr& e);
  std::vector<Value> eval_all(const std::vector<Expr>& list);

  Budget& budget_;
  std::shared_ptr<Scope> scope_;
  std::string out_;  // of the innermost block that collects text
  Value captured_;   // ExprKind::kCaptured
  Position at_;      // what is being evaluated, for errors
  size_t recursion_ = 0;
  // Macros keep their scopes alive, scopes their macros, and namespaces may hold anything: the knots are cut at the
  // end.
  std::vector<std::shared_ptr<Scope>> captured_scopes_;
  std::vector<std::shared_ptr<class Namespace>> namespaces_;
};

// Arithmetic of Python's numbers, strings and lists: + - * / // % **.
Value arithmetic(std::string_view op, const Value& a, const Value& b, Budget& budget);
// a[start:stop:step] of lists and strings; absent bounds are none.
Value slice(const Value& sequence, const Value& start, const Value& stop, const Value& step, Budget& budget);

// Filters and tests by name; null when there is none.
using Filter = Value (*)(Interpreter& interpreter, const Value& input, const Arguments& arguments);
using Test = bool (*)(Interpreter& interpreter, const Value& input, const Arguments& arguments);
Filter find_filter(std::string_view name);
Test find_test(std::string_view name);
// The method `name` of a string, list or dictionary, bound to it; nothing when Python has none. Throws
// Error(kUnsupported) for those that Python has and nibble or the sandbox does not.
std::optional<Value> find_method(const Value& self, std::string_view name);
// range(), dict(), namespace(), raise_exception(), strftime_now(); undefined for other names.
Value find_function(std::string_view name);

}  // namespace nibble::jinja
