#pragma once
#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/jinja_ast.h"

namespace nibble::jinja {

// The grammar of expressions, which is Jinja's, over a cursor in a list of tokens. The parser of statements builds on
// it. Throws as parse() does.
class ExpressionParser {
 protected:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  using Names = std::initializer_list<std::string_view>;

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

  [[noreturn]] void fail_here(std::string_view expected) const;
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
    explicit Nested(ExpressionParser& p) : parser(p) {
      if (++parser.nesting_ > kMaxNesting)
        unknown(parser.current().at, cat("nested deeper than ", kMaxNesting, " levels"));
    }
    ~Nested() { --parser.nesting_; }
    ExpressionParser& parser;
  };

  static Expr make(ExprKind kind, Position at, std::vector<Expr> args = {}, std::string text = {});

  // An expression, and one without a conditional as loops and conditions want it; a tuple when commas follow.
  Expr expressions();
  Expr disjunctions();
  Expr expression();
  // A value with its sign, attributes, subscripts and calls; with what else can follow it if `with_filters`.
  Expr unary(bool with_filters);
  // `value` with the filters, tests and calls that follow it.
  Expr filters(Expr value);
  // `first` followed by "(arguments)", which may be absent for filters and tests.
  Expr call(ExprKind kind, Position at, std::string text, Expr first);
  std::string dotted_name();

 private:
  static constexpr size_t kMaxNesting = 100;  // of brackets and statements while parsing

  template <class... Args>
  static Expr make_of(ExprKind kind, Position at, std::string text, Args... args);
  static Expr constant(Position at, Value value);
  template <class Operand>
  Expr chain(ExprKind kind, std::string_view word, Operand operand);
  Expr disjunction();
  Expr negation();
  std::string comparison_operator();
  Expr comparison();
  template <class Operand>
  Expr arithmetic(Names operators, Operand operand);
  Expr sum();
  Expr concatenation();
  Expr product();
  Expr primary();
  template <class T>
  static T parse_number(const Token& token);
  template <class Item>
  std::vector<Expr> items(std::string_view closing, Item item);
  template <class Item>
  Expr tuple(Item item);
  Expr postfix(Expr value);
  Expr subscript(Expr object, Position at);
  Expr test(Expr value, Position at);

  std::vector<Token> tokens_;
  size_t i_ = 0;
  size_t nesting_ = 0;
};

}  // namespace nibble::jinja
