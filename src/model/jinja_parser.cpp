#include "model/jinja_parser.h"

#include <algorithm>

#include "model/jinja_expression_parser.h"

namespace nibble::jinja {
namespace {

class Parser : ExpressionParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}

  Body run() { return body({}); }

 private:
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
          s.exprs.push_back(expressions());
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
      s.exprs.push_back(disjunctions());
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
    s.exprs.push_back(disjunctions());
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
      s.exprs.push_back(expressions());
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

  size_t loops_ = 0;  // around the cursor, as break and continue see them
};

}  // namespace

Body parse(std::string_view source) { return Parser(tokenize(source)).run(); }

}  // namespace nibble::jinja
