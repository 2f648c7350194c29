#include "model/jinja_expression_parser.h"

#include <charconv>

namespace nibble::jinja {
namespace {

constexpr size_t kMaxTreeDepth = 200;  // of one expression

std::string show(const Token& token) {
  switch (token.kind) {
    case TokenKind::kBlockEnd:
      return "%}";
    case TokenKind::kVariableEnd:
      return "}}";
    case TokenKind::kEnd:
      return "the end of the template";
    default:
      return cat("'", token.text, "'");
  }
}

}  // namespace

void ExpressionParser::fail_here(std::string_view expected) const {
  throw Error(ErrorKind::kCorrupt, cat(describe(current().at), "expected ", expected, ", found ", show(current())));
}

Expr ExpressionParser::make(ExprKind kind, Position at, std::vector<Expr> args, std::string text) {
  Expr e;
  e.kind = kind;
  e.at = at;
  e.name = std::move(text);
  for (const Expr& arg : args) e.depth = std::max(e.depth, arg.depth + 1);
  if (e.depth > kMaxTreeDepth) unknown(at, cat("an expression of more than ", kMaxTreeDepth, " levels"));
  e.args = std::move(args);
  return e;
}

template <class... Args>
Expr ExpressionParser::make_of(ExprKind kind, Position at, std::string text, Args... args) {
  std::vector<Expr> list;
  (list.push_back(std::move(args)), ...);
  return make(kind, at, std::move(list), std::move(text));
}

Expr ExpressionParser::constant(Position at, Value value) {
  Expr e = make(ExprKind::kConst, at);
  e.constant = std::move(value);
  return e;
}

Expr ExpressionParser::expression() {
  const Nested guard(*this);
  Expr value = disjunction();
  while (is_word("if")) {
    const Position at = take().at;
    Expr condition = disjunction();
    if (skip_word("else"))
      value = make_of(ExprKind::kConditional, at, "", std::move(condition), std::move(value), expression());
    else
      value = make_of(ExprKind::kConditional, at, "", std::move(condition), std::move(value));
  }
  return value;
}

// operand (WORD operand)*, or the operand alone.
template <class Operand>
Expr ExpressionParser::chain(ExprKind kind, std::string_view word, Operand operand) {
  Expr first = operand();
  if (!is_word(word)) return first;
  const Position at = current().at;
  std::vector<Expr> args;
  args.push_back(std::move(first));
  while (skip_word(word)) args.push_back(operand());
  return make(kind, at, std::move(args));
}

Expr ExpressionParser::disjunction() {
  return chain(ExprKind::kOr, "or", [this] { return chain(ExprKind::kAnd, "and", [this] { return negation(); }); });
}

Expr ExpressionParser::negation() {
  if (!is_word("not")) return comparison();
  const Nested guard(*this);
  const Position at = take().at;
  return make_of(ExprKind::kNot, at, "", negation());
}

// The comparison operator at the cursor, consumed; "" when there is none.
std::string ExpressionParser::comparison_operator() {
  for (const char* text : {"==", "!=", "<=", ">=", "<", ">"})
    if (skip_operator(text)) return text;
  if (skip_word("in")) return "in";
  if (is_word("not") && is(ahead(), TokenKind::kName, "in")) return take(), take(), "not in";
  return "";
}

Expr ExpressionParser::comparison() {
  Expr first = sum();
  const Position at = current().at;
  std::string op = comparison_operator();
  if (op.empty()) return first;
  std::vector<Expr> args;
  args.push_back(std::move(first));
  std::vector<std::string> operators;
  for (; !op.empty(); op = comparison_operator()) {
    operators.push_back(std::move(op));
    args.push_back(sum());
  }
  Expr e = make(ExprKind::kCompare, at, std::move(args));
  e.names = std::move(operators);
  return e;
}

template <class Operand>
Expr ExpressionParser::arithmetic(Names operators, Operand operand) {
  Expr left = operand();
  for (;;) {
    const auto op =
        std::find_if(operators.begin(), operators.end(), [this](std::string_view text) { return is_operator(text); });
    if (op == operators.end()) return left;
    const Position at = take().at;
    left = make_of(ExprKind::kArithmetic, at, std::string(*op), std::move(left), operand());
  }
}

Expr ExpressionParser::sum() {
  return arithmetic({"+", "-"}, [this] { return concatenation(); });
}

Expr ExpressionParser::concatenation() {
  Expr first = product();
  if (!is_operator("~")) return first;
  const Position at = current().at;
  std::vector<Expr> args;
  args.push_back(std::move(first));
  while (skip_operator("~")) args.push_back(product());
  return make(ExprKind::kConcat, at, std::move(args));
}

Expr ExpressionParser::product() {
  return arithmetic({"*", "/", "//", "%"}, [this] { return arithmetic({"**"}, [this] { return unary(true); }); });
}

Expr ExpressionParser::unary(bool with_filters) {
  const Nested guard(*this);
  const Position at = current().at;
  Expr value;
  if (skip_operator("-"))
    value = make_of(ExprKind::kNegate, at, "", unary(false));
  else if (skip_operator("+"))
    value = make_of(ExprKind::kPlus, at, "", unary(false));
  else
    value = primary();
  value = postfix(std::move(value));
  return with_filters ? filters(std::move(value)) : std::move(value);
}

Expr ExpressionParser::primary() {
  const Position at = current().at;
  switch (current().kind) {
    case TokenKind::kName: {
      std::string text = take().text;
      if (text == "true" || text == "True") return constant(at, Value(true));
      if (text == "false" || text == "False") return constant(at, Value(false));
      if (text == "none" || text == "None") return constant(at, Value(None{}));
      return make(ExprKind::kName, at, {}, std::move(text));
    }
    case TokenKind::kString: {
      std::string text = take().text;
      while (current().kind == TokenKind::kString) text += take().text;
      return constant(at, Value(std::move(text)));
    }
    case TokenKind::kInteger:
      return constant(at, Value(parse_number<int64_t>(take())));
    case TokenKind::kFloat:
      return constant(at, Value(parse_number<double>(take())));
    default:
      break;
  }
  if (skip_operator("(")) {
    if (skip_operator(")")) return make(ExprKind::kTuple, at);
    Expr inside = tuple([this] { return expression(); });
    expect_operator(")");
    return inside;
  }
  if (skip_operator("["))
    return make(ExprKind::kList, at, items("]", [this](std::vector<Expr>& out) { out.push_back(expression()); }));
  if (skip_operator("{"))
    return make(ExprKind::kDict, at, items("}", [this](std::vector<Expr>& out) {
                  out.push_back(expression());
                  expect_operator(":");
                  out.push_back(expression());
                }));
  fail_here("an expression");
}

template <class T>
T ExpressionParser::parse_number(const Token& token) {
  T value{};
  const auto [end, status] = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
  if (status != std::errc() || end != token.text.data() + token.text.size())
    unknown(token.at, cat("the number ", token.text, " is too large"));
  return value;
}

// Comma-separated items up to the closing bracket, which is consumed; a trailing comma is fine.
template <class Item>
std::vector<Expr> ExpressionParser::items(std::string_view closing, Item item) {
  std::vector<Expr> out;
  while (!skip_operator(closing)) {
    if (!out.empty()) {
      expect_operator(",");
      if (skip_operator(closing)) break;
    }
    item(out);
  }
  return out;
}

// One item, or a tuple when a comma follows it.
template <class Item>
Expr ExpressionParser::tuple(Item item) {
  const Position at = current().at;
  Expr first = item();
  if (!is_operator(",")) return first;
  std::vector<Expr> out;
  out.push_back(std::move(first));
  while (skip_operator(",")) {
    if (is_operator(")") || is_operator("]") || current().kind == TokenKind::kBlockEnd ||
        current().kind == TokenKind::kVariableEnd)
      break;
    out.push_back(item());
  }
  return make(ExprKind::kTuple, at, std::move(out));
}

Expr ExpressionParser::postfix(Expr value) {
  for (;;) {
    const Position at = current().at;
    if (skip_operator(".")) {
      if (current().kind == TokenKind::kInteger)
        value = make_of(ExprKind::kItem, at, "", std::move(value), constant(at, Value(parse_number<int64_t>(take()))));
      else
        value = make_of(ExprKind::kAttribute, at, name(), std::move(value));
    } else if (skip_operator("[")) {
      value = subscript(std::move(value), at);
    } else if (is_operator("(")) {
      value = call(ExprKind::kCall, at, "", std::move(value));
    } else {
      return value;
    }
  }
}

Expr ExpressionParser::subscript(Expr object, Position at) {
  std::vector<Expr> parts;
  parts.push_back(std::move(object));
  bool slice = false;
  const auto bound = [&] {
    const bool absent = is_operator(":") || is_operator("]");
    parts.push_back(absent ? constant(at, Value(None{})) : expression());
  };
  if (is_operator("]")) fail_here("an index");
  bound();
  while (parts.size() < 4 && skip_operator(":")) slice = true, bound();
  if (is_operator(",")) unknown(at, "several indices in one subscript");
  expect_operator("]");
  if (!slice) return make(ExprKind::kItem, at, std::move(parts));
  while (parts.size() < 4) parts.push_back(constant(at, Value(None{})));
  return make(ExprKind::kSlice, at, std::move(parts));
}

Expr ExpressionParser::call(ExprKind kind, Position at, std::string text, Expr first) {
  const Nested guard(*this);
  std::vector<Expr> args;
  std::vector<std::string> names;
  args.push_back(std::move(first));
  if (skip_operator("("))
    for (std::vector<Expr>& rest = args; !skip_operator(")");) {
      if (rest.size() > 1) {
        expect_operator(",");
        if (skip_operator(")")) break;
      }
      if (is_operator("*") || is_operator("**")) unknown(current().at, "arguments given by * or **");
      if (current().kind == TokenKind::kName && is(ahead(), TokenKind::kOperator, "=")) {
        names.push_back(name());
        expect_operator("=");
      } else if (!names.empty()) {
        fail_here("a named argument");
      }
      rest.push_back(expression());
    }
  Expr e = make(kind, at, std::move(args), std::move(text));
  e.names = std::move(names);
  return e;
}

std::string ExpressionParser::dotted_name() {
  std::string text = name();
  while (skip_operator(".")) text = cat(text, ".", name());
  return text;
}

Expr ExpressionParser::filters(Expr value) {
  for (;;) {
    const Position at = current().at;
    if (skip_operator("|")) {
      std::string filter = dotted_name();
      value = call(ExprKind::kFilter, at, std::move(filter), std::move(value));
    } else if (skip_word("is")) {
      value = test(std::move(value), at);
    } else if (is_operator("(")) {
      value = call(ExprKind::kCall, at, "", std::move(value));
    } else {
      return value;
    }
  }
}

Expr ExpressionParser::test(Expr value, Position at) {
  const bool negated = skip_word("not");
  std::string test_name = dotted_name();
  Expr e;
  const TokenKind kind = current().kind;
  const bool starts_operand = kind == TokenKind::kName || kind == TokenKind::kString || kind == TokenKind::kInteger ||
                              kind == TokenKind::kFloat || is_operator("[") || is_operator("{");
  const bool word_continues =
      is_word("else") || is_word("or") || is_word("and") || is_word("if") || is_word("in") || is_word("not");
  if (is_operator("(") || !starts_operand || word_continues) {
    e = call(ExprKind::kTest, at, std::move(test_name), std::move(value));
  } else {
    if (is_word("is")) fail_here("something else than a second test");
    e = make_of(ExprKind::kTest, at, std::move(test_name), std::move(value), postfix(primary()));
  }
  return negated ? make_of(ExprKind::kNot, at, "", std::move(e)) : std::move(e);
}

Expr ExpressionParser::expressions() {
  return tuple([this] { return expression(); });
}

Expr ExpressionParser::disjunctions() {
  return tuple([this] { return disjunction(); });
}

}  // namespace nibble::jinja
