#include "model/jinja_parser.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>

namespace nibble::jinja {
namespace {

constexpr size_t kMaxTreeDepth = 200;  // of one expression
constexpr size_t kMaxNesting = 100;    // of brackets and statements while parsing

// The grammar is Jinja's; each function below handles one level of precedence, loosest first.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Body run() { return body({}); }

 private:
  using Names = std::initializer_list<std::string_view>;

  // ---- tokens

  const Token& current() const { return tokens_[i_]; }
  const Token& ahead() const { return tokens_[std::min(i_ + 1, tokens_.size() - 1)]; }
  Token take() { return i_ + 1 < tokens_.size() ? std::move(tokens_[i_++]) : tokens_.back(); }
  static bool is(const Token& token, TokenKind kind, std::string_view text) {
    return token.kind == kind && token.text == text;
  }
  bool is_operator(std::string_view text) const { return is(current(), TokenKind::kOperator, text); }
  bool is_word(std::string_view text) const { return is(current(), TokenKind::kName, text); }

  bool skip_operator(std::string_view text) { return is_operator(text) && (take(), true); }
  bool skip_word(std::string_view text) { return is_word(text) && (take(), true); }

  static std::string show(const Token& token) {
    switch (token.kind) {
      case TokenKind::kBlockEnd:
        return "%}";
      case TokenKind::kVariableEnd:
        return "}}";
      case TokenKind::kEnd:
        return "the end of the template";
      default:
        return "'" + token.text + "'";
    }
  }
  [[noreturn]] void fail_here(std::string_view expected) const {
    throw Error(ErrorKind::kCorrupt, cat(describe(current().at), "expected ", expected, ", found ", show(current())));
  }
  [[noreturn]] static void unknown(Position at, const std::string& what) {
    throw Error(ErrorKind::kUnsupported, describe(at) + what);
  }

  void expect_operator(std::string_view text) {
    if (!skip_operator(text)) fail_here(cat("'", text, "'"));
  }
  void expect_word(std::string_view text) {
    if (!skip_word(text)) fail_here(cat("'", text, "'"));
  }
  Token expect(TokenKind kind, std::string_view what) {
    if (current().kind != kind) fail_here(what);
    return take();
  }
  std::string name() { return expect(TokenKind::kName, "a name").text; }

  // Counts nesting while it lives.
  struct Nested {
    explicit Nested(Parser& p) : parser(p) {
      if (++parser.nesting_ > kMaxNesting)
        unknown(parser.current().at, cat("nested deeper than ", kMaxNesting, " levels"));
    }
    ~Nested() { --parser.nesting_; }
    Parser& parser;
  };

  // ---- expressions

  static Expr make(ExprKind kind, Position at, std::vector<Expr> args = {}, std::string text = {}) {
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
  static Expr make_of(ExprKind kind, Position at, std::string text, Args... args) {
    std::vector<Expr> list;
    (list.push_back(std::move(args)), ...);
    return make(kind, at, std::move(list), std::move(text));
  }
  static Expr constant(Position at, Value value) {
    Expr e = make(ExprKind::kConst, at);
    e.constant = std::move(value);
    return e;
  }

  Expr expression() {
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
  Expr chain(ExprKind kind, std::string_view word, Operand operand) {
    Expr first = operand();
    if (!is_word(word)) return first;
    const Position at = current().at;
    std::vector<Expr> args;
    args.push_back(std::move(first));
    while (skip_word(word)) args.push_back(operand());
    return make(kind, at, std::move(args));
  }

  Expr disjunction() {
    return chain(ExprKind::kOr, "or", [this] { return chain(ExprKind::kAnd, "and", [this] { return negation(); }); });
  }

  Expr negation() {
    if (!is_word("not")) return comparison();
    const Nested guard(*this);
    const Position at = take().at;
    return make_of(ExprKind::kNot, at, "", negation());
  }

  // The comparison operator at the cursor, consumed; "" when there is none.
  std::string comparison_operator() {
    for (const char* text : {"==", "!=", "<=", ">=", "<", ">"})
      if (skip_operator(text)) return text;
    if (skip_word("in")) return "in";
    if (is_word("not") && is(ahead(), TokenKind::kName, "in")) return take(), take(), "not in";
    return "";
  }

  Expr comparison() {
    Expr first = sum();
    const Position at = current().at;
    std::vector<Expr> args;
    std::vector<std::string> operators;
    for (std::string op = comparison_operator(); !op.empty(); op = comparison_operator()) {
      if (args.empty()) args.push_back(std::move(first));
      operators.push_back(std::move(op));
      args.push_back(sum());
    }
    if (args.empty()) return first;
    Expr e = make(ExprKind::kCompare, at, std::move(args));
    e.names = std::move(operators);
    return e;
  }

  template <class Operand>
  Expr arithmetic(Names operators, Operand operand) {
    Expr left = operand();
    for (;;) {
      const auto op =
          std::find_if(operators.begin(), operators.end(), [this](std::string_view text) { return is_operator(text); });
      if (op == operators.end()) return left;
      const Position at = take().at;
      left = make_of(ExprKind::kArithmetic, at, std::string(*op), std::move(left), operand());
    }
  }

  Expr sum() {
    return arithmetic({"+", "-"}, [this] { return concatenation(); });
  }
  Expr concatenation() {
    Expr first = product();
    if (!is_operator("~")) return first;
    const Position at = current().at;
    std::vector<Expr> args;
    args.push_back(std::move(first));
    while (skip_operator("~")) args.push_back(product());
    return make(ExprKind::kConcat, at, std::move(args));
  }
  Expr product() {
    return arithmetic({"*", "/", "//", "%"}, [this] { return arithmetic({"**"}, [this] { return unary(true); }); });
  }

  Expr unary(bool with_filters) {
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

  Expr primary() {
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
  static T parse_number(const Token& token) {
    T value{};
    const auto [end, status] = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
    if (status != std::errc() || end != token.text.data() + token.text.size())
      unknown(token.at, cat("the number ", token.text, " is too large"));
    return value;
  }

  // Comma-separated items up to the closing bracket, which is consumed; a trailing comma is fine.
  template <class Item>
  std::vector<Expr> items(std::string_view closing, Item item) {
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
  Expr tuple(Item item) {
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

  Expr postfix(Expr value) {
    for (;;) {
      const Position at = current().at;
      if (skip_operator(".")) {
        if (current().kind == TokenKind::kInteger)
          value =
              make_of(ExprKind::kItem, at, "", std::move(value), constant(at, Value(parse_number<int64_t>(take()))));
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

  Expr subscript(Expr object, Position at) {
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

  // `first` followed by "(arguments)", which may be absent for filters and tests.
  Expr call(ExprKind kind, Position at, std::string text, Expr first) {
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

  std::string dotted_name() {
    std::string text = name();
    while (skip_operator(".")) text += "." + name();
    return text;
  }

  Expr filters(Expr value) {
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

  Expr test(Expr value, Position at) {
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

  // ---- statements

  static Stmt statement(StmtKind kind, Position at) {
    Stmt s;
    s.kind = kind;
    s.at = at;
    return s;
  }

  bool at_block(Names words) const {
    return current().kind == TokenKind::kBlockBegin && ahead().kind == TokenKind::kName &&
           std::find(words.begin(), words.end(), ahead().text) != words.end();
  }

  void end_block() { expect(TokenKind::kBlockEnd, "%}"); }
  // "{% word %}"
  void closing(std::string_view word) {
    take();
    expect_word(word);
    end_block();
  }

  // Statements up to "{% one of `ends`", which is not consumed; with no ends, up to the end of the template.
  Body body(Names ends) {
    const Nested guard(*this);
    Body out;
    while (!at_block(ends)) {
      const Position at = current().at;
      switch (current().kind) {
        case TokenKind::kData: {
          Stmt s = statement(StmtKind::kText, at);
          s.text = take().text;
          out.push_back(std::move(s));
          break;
        }
        case TokenKind::kVariableBegin: {
          take();
          Stmt s = statement(StmtKind::kPrint, at);
          s.exprs.push_back(tuple([this] { return expression(); }));
          expect(TokenKind::kVariableEnd, "}}");
          out.push_back(std::move(s));
          break;
        }
        case TokenKind::kBlockBegin:
          take();
          out.push_back(block());
          break;
        default:
          if (ends.size() == 0) return out;
          fail_here(cat("{% ", *(ends.end() - 1), " %}"));
      }
    }
    return out;
  }

  Stmt block() {
    const Token word = expect(TokenKind::kName, "a statement");
    const Position at = word.at;
    if (word.text == "if") return if_block(at);
    if (word.text == "for") return for_block(at);
    if (word.text == "set") return set_block(at);
    if (word.text == "macro") return macro_block(at);
    if (word.text == "call") return call_block(at);
    if (word.text == "filter") return filter_block(at);
    if (word.text == "with" || word.text == "generation") return with_block(at, word.text);
    if (word.text == "break" || word.text == "continue") {
      if (loops_ == 0) throw Error(ErrorKind::kCorrupt, cat(describe(at), word.text, " outside of a loop"));
      end_block();
      return statement(word.text == "break" ? StmtKind::kBreak : StmtKind::kContinue, at);
    }
    if (word.text.starts_with("end") || word.text == "else" || word.text == "elif")
      throw Error(ErrorKind::kCorrupt, cat(describe(at), "unexpected {% ", word.text, " %}"));
    unknown(at, cat("the statement '", word.text, "' is not known"));
  }

  Stmt if_block(Position at) {
    Stmt s = statement(StmtKind::kIf, at);
    const auto branch = [&] {
      s.exprs.push_back(tuple([this] { return disjunction(); }));
      end_block();
      s.bodies.push_back(body({"elif", "else", "endif"}));
    };
    branch();
    for (;;) {
      take();
      if (skip_word("elif")) {
        branch();
      } else if (skip_word("else")) {
        end_block();
        s.bodies.push_back(body({"endif"}));
        closing("endif");
        return s;
      } else {
        expect_word("endif");
        end_block();
        return s;
      }
    }
  }

  // "a" or "a, b" (also in parentheses).
  void targets(Stmt& s) {
    const bool parenthesized = skip_operator("(");
    for (;;) {
      const Token target = expect(TokenKind::kName, "a name");
      for (const char* reserved : {"true", "false", "none", "True", "False", "None"})
        if (target.text == reserved)
          throw Error(ErrorKind::kCorrupt, cat(describe(target.at), "cannot assign to ", reserved));
      s.names.push_back(target.text);
      if (!skip_operator(",")) break;
      s.unpack = true;
      if (current().kind != TokenKind::kName || is_word("in")) break;
    }
    if (parenthesized) expect_operator(")");
  }

  Stmt for_block(Position at) {
    Stmt s = statement(StmtKind::kFor, at);
    targets(s);
    expect_word("in");
    s.exprs.push_back(tuple([this] { return disjunction(); }));
    if (skip_word("if")) s.exprs.push_back(expression());
    if (is_word("recursive")) unknown(current().at, "recursive loops");
    end_block();
    ++loops_;
    s.bodies.push_back(body({"else", "endfor"}));
    --loops_;
    take();
    if (skip_word("else")) {
      end_block();
      s.bodies.push_back(body({"endfor"}));
      closing("endfor");
    } else {
      expect_word("endfor");
      end_block();
    }
    return s;
  }

  Stmt set_block(Position at) {
    Stmt s = statement(StmtKind::kSet, at);
    targets(s);
    if (!s.unpack && skip_operator(".")) s.text = name();
    if (skip_operator("=")) {
      s.exprs.push_back(tuple([this] { return expression(); }));
      end_block();
      return s;
    }
    if (s.unpack) fail_here("'='");
    s.kind = StmtKind::kSetBlock;
    s.exprs.push_back(filters(make(ExprKind::kCaptured, at)));
    end_block();
    s.bodies.push_back(detached_body("endset"));
    return s;
  }

  // A body that break and continue cannot leave.
  Body detached_body(std::string_view end) {
    const size_t loops = std::exchange(loops_, 0);
    Body out = body({end});
    loops_ = loops;
    closing(end);
    return out;
  }

  // "(a, b=1)"
  void signature(Stmt& s) {
    expect_operator("(");
    while (!skip_operator(")")) {
      if (!s.names.empty()) {
        expect_operator(",");
        if (skip_operator(")")) break;
      }
      s.names.push_back(name());
      const size_t defaults = s.exprs.size() - (s.kind == StmtKind::kCallBlock ? 1 : 0);
      if (skip_operator("="))
        s.exprs.push_back(expression());
      else if (defaults > 0)
        fail_here("a default value");
    }
  }

  Stmt macro_block(Position at) {
    Stmt s = statement(StmtKind::kMacro, at);
    s.text = name();
    signature(s);
    end_block();
    s.bodies.push_back(detached_body("endmacro"));
    return s;
  }

  Stmt call_block(Position at) {
    Stmt s = statement(StmtKind::kCallBlock, at);
    s.exprs.emplace_back();
    if (is_operator("(")) signature(s);
    Expr callee = unary(false);
    if (callee.kind != ExprKind::kCall) fail_here("a call");
    s.exprs[0] = std::move(callee);
    end_block();
    s.bodies.push_back(detached_body("endcall"));
    return s;
  }

  Stmt filter_block(Position at) {
    Stmt s = statement(StmtKind::kFilterBlock, at);
    Expr captured = make(ExprKind::kCaptured, at);
    s.exprs.push_back(filters(call(ExprKind::kFilter, at, dotted_name(), std::move(captured))));
    end_block();
    s.bodies.push_back(detached_body("endfilter"));
    return s;
  }

  // `generation` marks what the model said, for training; here it is a scope and nothing else.
  Stmt with_block(Position at, const std::string& word) {
    Stmt s = statement(StmtKind::kWith, at);
    while (word == "with" && current().kind != TokenKind::kBlockEnd) {
      if (!s.names.empty()) expect_operator(",");
      s.names.push_back(name());
      expect_operator("=");
      s.exprs.push_back(expression());
    }
    end_block();
    const std::string end = "end" + word;
    s.bodies.push_back(body({end}));
    closing(end);
    return s;
  }

  std::vector<Token> tokens_;
  size_t i_ = 0;
  size_t nesting_ = 0;
  size_t loops_ = 0;  // around the cursor, as break and continue see them
};

}  // namespace

Body parse(std::string_view source) { return Parser(tokenize(source)).run(); }

}  // namespace nibble::jinja
