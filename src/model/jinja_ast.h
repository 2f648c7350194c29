#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "model/jinja_lexer.h"
#include "model/jinja_value.h"

namespace nibble::jinja {

enum class ExprKind {
  kConst,        // constant
  kName,         // name
  kList,         // args: items
  kTuple,        // args: items
  kDict,         // args: key, value, key, value...
  kAttribute,    // args[0].name
  kItem,         // args[0][args[1]]
  kSlice,        // args[0][args[1]:args[2]:args[3]]; absent bounds are none
  kCall,         // args[0](args[1]...), the last ones named
  kFilter,       // args[0] | name(args[1]...)
  kTest,         // args[0] is name(args[1]...)
  kNot,          // not args[0]
  kNegate,       // -args[0]
  kPlus,         // +args[0]
  kArithmetic,   // args[0] name args[1]; name is + - * / // % **
  kConcat,       // args[0] ~ args[1] ~ ...
  kCompare,      // args[0] names[0] args[1] names[1] args[2]...; names: == != < <= > >= in "not in"
  kAnd,          // args[0] and args[1] and ...
  kOr,           // args[0] or args[1] or ...
  kCaptured,     // the text that the enclosing set or filter block has collected
  kConditional,  // args[1] if args[0] else args[2] (may be absent)
};

struct Expr {
  ExprKind kind = ExprKind::kConst;
  Position at;
  std::string name;
  std::vector<Expr> args;
  std::vector<std::string> names;  // calls, filters, tests: of the last names.size() args, which are named arguments
  Value constant;
  size_t depth = 1;  // of the tree; limited, so that everything may recurse over it
};

enum class StmtKind {
  kText,         // text
  kPrint,        // exprs[0]
  kIf,           // exprs[i] -> bodies[i]; one more body is the else
  kFor,          // names: targets; exprs: iterable [, filter]; bodies: body, else
  kSet,          // names = exprs[0]; with `text`, the attribute of namespace names[0]
  kSetBlock,     // names[0] = exprs[0], filters around kCaptured = text of bodies[0]; or the attribute as in kSet
  kMacro,        // text(names), exprs: defaults of the last parameters; bodies[0]
  kCallBlock,    // exprs[0] (kCall) with caller() = bodies[0] taking names; exprs[1...]: defaults of the last ones
  kFilterBlock,  // prints exprs[0], filters around kCaptured = text of bodies[0]
  kWith,         // names[i] = exprs[i] in bodies[0]
  kBreak,
  kContinue,
};

struct Stmt {
  StmtKind kind = StmtKind::kText;
  Position at;
  std::string text;
  std::vector<std::string> names;
  bool unpack = false;  // for, set: targets are the elements of a sequence
  std::vector<Expr> exprs;
  std::vector<std::vector<Stmt>> bodies;
};

using Body = std::vector<Stmt>;

}  // namespace nibble::jinja
