#include "model/jinja_interpreter.h"

#include <algorithm>

namespace nibble::jinja {

// namespace(): the only value that a template can change.
class Namespace final : public Object {
 public:
  std::string_view type() const override { return "namespace"; }
  std::optional<Value> attribute(std::string_view name) const override {
    const auto it = attributes.find(name);
    return it == attributes.end() ? std::nullopt : std::optional(it->second);
  }
  std::map<std::string, Value, std::less<>> attributes;
};

namespace {

constexpr size_t kMaxRecursion = 600;  // nested expressions, statements and macro calls: well below a thread's stack
constexpr size_t kStepCost = 20;       // units of budget for one node

class Macro final : public Object {
 public:
  Macro(const Stmt& definition, std::shared_ptr<Scope> scope) : definition_(definition), scope_(std::move(scope)) {}
  std::string_view type() const override { return "macro"; }
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, const Arguments& arguments) const override {
    return interpreter.call_macro(definition_, scope_, arguments);
  }
  std::optional<Value> attribute(std::string_view name) const override {
    return name == "name" ? std::optional(Value(definition_.text)) : std::nullopt;
  }

 private:
  const Stmt& definition_;
  std::shared_ptr<Scope> scope_;
};

// What a loop's body sees as `loop`.
class Loop final : public Object {
 public:
  explicit Loop(std::shared_ptr<const std::vector<Value>> all) : items(std::move(all)) {
    size_t inner = 0;
    for (const Value& item : *items) inner = std::max(inner, depth_of(item));
    depth_ = deeper(inner);
  }
  std::string_view type() const override { return "loop"; }
  size_t depth() const override { return depth_; }

  std::optional<Value> attribute(std::string_view name) const override {
    const size_t n = items->size();
    if (name == "index") return Value::size(index + 1);
    if (name == "index0") return Value::size(index);
    if (name == "revindex") return Value::size(n - index);
    if (name == "revindex0") return Value::size(n - index - 1);
    if (name == "first") return Value(index == 0);
    if (name == "last") return Value(index + 1 == n);
    if (name == "length") return Value::size(n);
    if (name == "depth") return Value(int64_t{1});  // more only in recursive loops
    if (name == "depth0") return Value(int64_t{0});
    if (name == "previtem") return index > 0 ? (*items)[index - 1] : Value(Undefined{"there is no previous item"});
    if (name == "nextitem") return index + 1 < n ? (*items)[index + 1] : Value(Undefined{"there is no next item"});
    if (name == "cycle" || name == "changed") unsupported(cat("loop.", name));
    return std::nullopt;
  }

  std::shared_ptr<const std::vector<Value>> items;
  size_t index = 0;

 private:
  size_t depth_ = 0;
};

}  // namespace

struct Interpreter::Deeper {
  explicit Deeper(Interpreter& i) : interpreter(i) {
    if (++interpreter.recursion_ > kMaxRecursion) {
      --interpreter.recursion_;
      unsupported("the template recurses too deeply");
    }
  }
  ~Deeper() { --interpreter.recursion_; }
  Interpreter& interpreter;
};

Interpreter::Interpreter(Budget& budget, std::map<std::string, Value, std::less<>> variables)
    : budget_(budget), scope_(std::make_shared<Scope>()) {
  scope_->names = std::move(variables);
}

Interpreter::~Interpreter() {
  for (const auto& scope : captured_scopes_) scope->names.clear();
  for (const auto& ns : namespaces_) ns->attributes.clear();
}

std::string Interpreter::run(const Body& body) {
  return with_context([&] { return describe(at_).substr(0, describe(at_).size() - 2); },
                      [&] {
                        run_body(body);
                        return std::move(out_);
                      });
}

// ---- statements

void Interpreter::print(std::string_view text) {
  budget_.spend(text.size());
  out_ += text;
}

std::string Interpreter::collect(const Body& body) {
  std::string outer = std::exchange(out_, {});
  run_body(body);
  return std::exchange(out_, std::move(outer));
}

Interpreter::Flow Interpreter::run_body(const Body& body) {
  const Deeper guard(*this);
  for (const Stmt& s : body)
    if (const Flow flow = run_statement(s); flow != Flow::kNext) return flow;
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_statement(const Stmt& s) {
  at_ = s.at;
  budget_.spend(kStepCost);
  switch (s.kind) {
    case StmtKind::kText:
      print(s.text);
      break;
    case StmtKind::kPrint:
      print(to_text(eval(s.exprs[0]), budget_));
      break;
    case StmtKind::kIf:
      return run_if(s);
    case StmtKind::kFor:
      return run_for(s);
    case StmtKind::kWith:
      return run_with(s);
    case StmtKind::kSet:
      assign(s, eval(s.exprs[0]));
      break;
    case StmtKind::kSetBlock:
    case StmtKind::kFilterBlock: {
      const auto outer = scope_;
      scope_ = std::make_shared<Scope>(Scope{outer, {}});
      captured_ = Value(collect(s.bodies[0]));
      scope_ = outer;
      const Value result = eval(s.exprs[0]);
      if (s.kind == StmtKind::kSetBlock)
        assign(s, result);
      else
        print(to_text(result, budget_));
      break;
    }
    case StmtKind::kMacro:
      scope_->names[s.text] = make_macro(s);
      break;
    case StmtKind::kCallBlock:
      run_call_block(s);
      break;
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_if(const Stmt& s) {
  for (size_t i = 0; i < s.exprs.size(); ++i)
    if (truth(eval(s.exprs[i]))) return run_body(s.bodies[i]);
  return s.bodies.size() > s.exprs.size() ? run_body(s.bodies.back()) : Flow::kNext;
}

Interpreter::Flow Interpreter::run_for(const Stmt& s) {
  const auto outer = scope_;
  std::vector<Value> all = iterate(eval(s.exprs[0]), budget_);
  const auto fresh = [&] {
    budget_.spend(kStepCost);
    scope_ = std::make_shared<Scope>(Scope{outer, {}});
  };
  if (s.exprs.size() > 1) {
    std::vector<Value> kept;
    for (Value& value : all) {
      fresh();
      bind_targets(s, value);
      if (truth(eval(s.exprs[1]))) kept.push_back(std::move(value));
    }
    all = std::move(kept);
    scope_ = outer;
  }
  if (all.empty()) return s.bodies.size() > 1 ? run_body(s.bodies[1]) : Flow::kNext;

  const auto loop = std::make_shared<Loop>(std::make_shared<const std::vector<Value>>(std::move(all)));
  for (size_t i = 0; i < loop->items->size(); ++i) {
    fresh();
    loop->index = i;
    scope_->names["loop"] = Value(std::shared_ptr<Object>(loop));
    bind_targets(s, (*loop->items)[i]);
    if (run_body(s.bodies[0]) == Flow::kBreak) break;
  }
  scope_ = outer;
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_with(const Stmt& s) {
  const auto outer = scope_;
  const auto inner = std::make_shared<Scope>(Scope{outer, {}});
  for (size_t i = 0; i < s.names.size(); ++i) inner->names[s.names[i]] = eval(s.exprs[i]);
  scope_ = inner;
  const Flow flow = run_body(s.bodies[0]);
  scope_ = outer;
  return flow;
}

void Interpreter::run_call_block(const Stmt& s) {
  const std::pair<std::string, Value> caller("caller", make_macro(s));
  print(to_text(eval_call(s.exprs[0], &caller), budget_));
}

void Interpreter::assign(const Stmt& s, const Value& value) {
  if (s.text.empty()) return bind_targets(s, value);
  at_ = s.at;
  auto* target = dynamic_cast<Namespace*>(lookup(s.names[0]).as_object());
  if (!target) fail(cat("'", s.names[0], "' is no namespace, so its attribute '", s.text, "' cannot be set"));
  target->attributes[s.text] = value;
}

void Interpreter::bind_targets(const Stmt& s, const Value& value) {
  if (!s.unpack) {
    scope_->names[s.names[0]] = value;
    return;
  }
  std::vector<Value> parts = iterate(value, budget_);
  if (parts.size() != s.names.size())
    fail(cat("cannot unpack ", parts.size(), " values into ", s.names.size(), " names"));
  for (size_t i = 0; i < parts.size(); ++i) scope_->names[s.names[i]] = std::move(parts[i]);
}

Value Interpreter::make_macro(const Stmt& s) {
  budget_.spend(10 * kStepCost);
  if (captured_scopes_.empty() || captured_scopes_.back() != scope_) captured_scopes_.push_back(scope_);
  return Value(std::shared_ptr<Object>(std::make_shared<Macro>(s, scope_)));
}

Value Interpreter::call_macro(const Stmt& macro, const std::shared_ptr<Scope>& scope, const Arguments& given) {
  std::vector<std::string_view> parameters(macro.names.begin(), macro.names.end());
  Arguments arguments = given;
  // A call block hands its body to the macro under a name that need not be a parameter.
  std::optional<Value> caller;
  if (std::find(parameters.begin(), parameters.end(), "caller") == parameters.end())
    std::erase_if(arguments.named,
                  [&](const auto& entry) { return entry.first == "caller" && (caller = entry.second, true); });
  const auto bound = arguments.bind(macro.text.empty() ? "caller" : macro.text, parameters, 0);

  const auto outer = std::exchange(scope_, std::make_shared<Scope>(Scope{scope, {}}));
  if (caller) scope_->names["caller"] = *caller;
  const size_t first_default = macro.kind == StmtKind::kCallBlock ? 1 : 0;
  const size_t without_default = parameters.size() - (macro.exprs.size() - first_default);
  for (size_t i = 0; i < parameters.size(); ++i) {
    Value& value = scope_->names[macro.names[i]];
    if (bound[i])
      value = *bound[i];
    else if (i >= without_default)
      value = eval(macro.exprs[first_default + i - without_default]);
    else
      value = Value(Undefined{macro.names[i]});
  }
  Value result(collect(macro.bodies[0]));
  scope_ = outer;
  return result;
}

Value Interpreter::make_namespace(const Arguments& arguments) {
  budget_.spend(10 * kStepCost);
  const auto ns = std::make_shared<Namespace>();
  if (arguments.positional.size() > 1) fail("namespace takes at most 1 positional argument");
  if (!arguments.positional.empty()) {
    const Dict* dict = arguments.positional[0].as_dict();
    if (!dict) unsupported("namespace() of something else than a dictionary");
    for (const auto& [key, value] : dict->entries) ns->attributes[get_text(key, "a namespace's key")] = value;
  }
  for (const auto& [name, value] : arguments.named) ns->attributes[name] = value;
  namespaces_.push_back(ns);
  return Value(std::shared_ptr<Object>(ns));
}

// ---- expressions

Value Interpreter::eval(const Expr& e) {
  const Deeper guard(*this);
  at_ = e.at;
  budget_.spend(kStepCost);
  return eval_node(e);
}

Value Interpreter::eval_node(const Expr& e) {
  switch (e.kind) {
    case ExprKind::kConst:
      return e.constant;
    case ExprKind::kCaptured:
      return captured_;
    case ExprKind::kName:
      return lookup(e.name);
    case ExprKind::kList:
    case ExprKind::kTuple:
      return make_list(eval_all(e.args), e.kind == ExprKind::kTuple);
    case ExprKind::kDict:
      return eval_dict(e);
    case ExprKind::kAttribute: {
      const Value object = eval(e.args[0]);
      at_ = e.at;
      return attribute(object, e.name);
    }
    case ExprKind::kItem: {
      const Value object = eval(e.args[0]), key = eval(e.args[1]);
      at_ = e.at;
      return item(object, key);
    }
    case ExprKind::kSlice:
      return eval_slice(e);
    case ExprKind::kCall:
      return eval_call(e, nullptr);
    case ExprKind::kFilter:
    case ExprKind::kTest: {
      const Value input = eval(e.args[0]);
      const Arguments given = arguments(e);
      at_ = e.at;
      if (e.kind == ExprKind::kTest) return Value(apply_test(e.name, input, given));
      return apply_filter(e.name, input, given);
    }
    case ExprKind::kNot:
      return Value(!truth(eval(e.args[0])));
    case ExprKind::kNegate:
      return arithmetic("-", Value(int64_t{0}), eval(e.args[0]), budget_);
    case ExprKind::kPlus:
      return arithmetic("+", Value(int64_t{0}), eval(e.args[0]), budget_);
    case ExprKind::kArithmetic:
      return eval_arithmetic(e);
    case ExprKind::kConcat:
      return eval_concat(e);
    case ExprKind::kCompare:
      return Value(eval_compare(e));
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      Value value;
      for (const Expr& arg : e.args) {
        value = eval(arg);
        if (truth(value) == (e.kind == ExprKind::kOr)) break;
      }
      return value;
    }
    case ExprKind::kConditional:
      if (truth(eval(e.args[0]))) return eval(e.args[1]);
      return e.args.size() > 2 ? eval(e.args[2]) : Value(Undefined{"the value of an 'if' without 'else'"});
  }
  return {};
}

Value Interpreter::lookup(const std::string& name) const {
  for (const Scope* scope = scope_.get(); scope; scope = scope->parent.get())
    if (const auto it = scope->names.find(name); it != scope->names.end()) return it->second;
  Value function = find_function(name);
  return function.is_undefined() ? Value(Undefined{name}) : function;
}

std::vector<Value> Interpreter::eval_all(const std::vector<Expr>& list) {
  std::vector<Value> values;
  values.reserve(list.size());
  for (const Expr& e : list) values.push_back(eval(e));
  return values;
}

Value Interpreter::eval_dict(const Expr& e) {
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i < e.args.size(); i += 2) {
    Value key = eval(e.args[i]);
    entries.emplace_back(std::move(key), eval(e.args[i + 1]));
  }
  return make_dict(std::move(entries), budget_);
}

Arguments Interpreter::arguments(const Expr& e) {
  Arguments out;
  const size_t first_named = e.args.size() - e.names.size();
  for (size_t i = 1; i < e.args.size(); ++i) {
    Value value = eval(e.args[i]);
    if (i < first_named)
      out.positional.push_back(std::move(value));
    else
      out.named.emplace_back(e.names[i - first_named], std::move(value));
  }
  return out;
}

Value Interpreter::eval_call(const Expr& e, const std::pair<std::string, Value>* extra) {
  const Value callee = eval(e.args[0]);
  Arguments given = arguments(e);
  if (extra) given.named.push_back(*extra);
  at_ = e.at;
  return call(callee, given);
}

Value Interpreter::eval_slice(const Expr& e) {
  const std::vector<Value> v = eval_all(e.args);
  at_ = e.at;
  return slice(v[0], v[1], v[2], v[3], budget_);
}

Value Interpreter::eval_arithmetic(const Expr& e) {
  const Value a = eval(e.args[0]), b = eval(e.args[1]);
  at_ = e.at;
  return arithmetic(e.name, a, b, budget_);
}

Value Interpreter::eval_concat(const Expr& e) {
  std::string text;
  for (const Expr& arg : e.args) text += to_text(eval(arg), budget_);
  return Value(std::move(text));
}

bool Interpreter::eval_compare(const Expr& e) {
  Value left = eval(e.args[0]);
  for (size_t i = 0; i < e.names.size(); ++i) {
    Value right = eval(e.args[i + 1]);
    at_ = e.at;
    if (!eval_operator(e.names[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

bool Interpreter::eval_operator(const std::string& op, const Value& a, const Value& b) {
  if (op == "==") return equal(a, b, budget_);
  if (op == "!=") return !equal(a, b, budget_);
  if (op == "in") return is_in(a, b, budget_);
  if (op == "not in") return !is_in(a, b, budget_);
  for (const Value* v : {&a, &b})
    if (v->is_undefined()) fail(cat("'", v->as_undefined()->name, "' is undefined"));
  const int order = compare(a, b, budget_);
  if (op == "<") return order < 0;
  if (op == "<=") return order <= 0;
  if (op == ">") return order > 0;
  return order >= 0;
}

// ---- what expressions share with filters

Value Interpreter::attribute(const Value& object, const std::string& name) {
  if (const Undefined* undefined = object.as_undefined())
    fail(cat("'", undefined->name, "' is undefined, so it has no '", name, "'"));
  if (const Object* o = object.as_object()) return o->attribute(name).value_or(Value(Undefined{name}));
  if (auto method = find_method(object, name)) return *std::move(method);
  if (const Dict* dict = object.as_dict())
    if (const Value* value = find_key(*dict, name, budget_)) return *value;
  return Value(Undefined{name});
}

Value Interpreter::item(const Value& object, const Value& key) {
  if (const Undefined* undefined = object.as_undefined())
    fail(cat("'", undefined->name, "' is undefined, so it has no items"));
  if (const Dict* dict = object.as_dict()) {
    if (const Value* value = find_key(*dict, key, budget_)) return *value;
  } else if (key.is_integral() && (object.as_list() || object.as_string())) {
    const auto n = static_cast<int64_t>(*length(object));
    int64_t i = get_int(key, "an index");
    if (i < 0 && i >= -n) i += n;
    if (i < 0 || i >= n) return Value(Undefined{cat("item ", get_int(key, "an index"))});
    if (const List* list = object.as_list()) return list->items[static_cast<size_t>(i)];
    budget_.spend(object.as_string()->size());
    return slice(object, Value(i), Value(i + 1), Value(None{}), budget_);
  }
  if (const std::string* name = key.as_string(); name && !object.as_dict()) return attribute(object, *name);
  if (const std::string* name = key.as_string())
    if (auto method = find_method(object, *name)) return *std::move(method);
  return Value(Undefined{key.as_string() ? *key.as_string() : "an item"});
}

Value Interpreter::call(const Value& callee, const Arguments& given) {
  if (const Undefined* undefined = callee.as_undefined())
    unsupported(cat("'", undefined->name, "' is called, but nothing of that name is known"));
  if (!callee.as_object() || !callee.as_object()->callable())
    fail(cat("a value of type ", type_name(callee), " cannot be called"));
  const Deeper guard(*this);
  return callee.as_object()->call(*this, given);
}

Value Interpreter::apply_filter(std::string_view name, const Value& input, const Arguments& given) {
  const Filter filter = find_filter(name);
  if (!filter) unsupported(cat("the filter '", name, "' is not known"));
  if (input.as_string()) budget_.spend(input.as_string()->size());
  return filter(*this, input, given);
}

bool Interpreter::apply_test(std::string_view name, const Value& input, const Arguments& given) {
  const Test test = find_test(name);
  if (!test) unsupported(cat("the test '", name, "' is not known"));
  return test(*this, input, given);
}

}  // namespace nibble::jinja
