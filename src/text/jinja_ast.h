// A parsed template: statements and expressions, immutable after parsing and shared by renders.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_call.h"
#include "text/jinja_ops.h"

namespace nanoflow::jinja {

struct Expr;
struct Stmt;
using Symbol = int;  // a variable's name, interned

struct CallArgs {
  std::vector<const Expr*> positional;
  std::vector<std::pair<std::string_view, const Expr*>> named;
  const Expr* more_positional = nullptr;  // *args
  const Expr* more_named = nullptr;       // **kwargs
};

struct Expr {
  enum Type : uint8_t {
    kConst,    // constant
    kName,     // symbol
    kList,     // args
    kTuple,    // args
    kDict,     // args: key, value, key, value, ...
    kUnary,    // op args[0]
    kBinary,   // args[0] op args[1]
    kConcat,   // args joined by ~
    kCompare,  // args[0] ops[0] args[1] ops[1] ...
    kAnd,
    kOr,
    kCond,    // args[1] if args[0] else args[2], which may be null
    kAttr,    // args[0].name
    kItem,    // args[0][args[1]]
    kSlice,   // args[0][args[1]:args[2]:args[3]], null where left out
    kCall,    // args[0](call)
    kFilter,  // args[0] | name(call)
    kTest,    // args[0] is name(call)
  };
  Type type = kConst;
  Op op = Op::kAdd;
  int line = 0;
  int depth = 1;  // of the tree below, limited when parsing so that evaluation may recurse
  Symbol symbol = -1;
  std::string_view name;
  Value constant;
  std::vector<const Expr*> args;
  std::vector<Op> ops;
  CallArgs call;
  FilterFn filter = nullptr;
  TestFn test = nullptr;
};

using Body = std::vector<const Stmt*>;

/// What `for` and `set` assign to: a name, a namespace attribute, or several targets.
struct Target {
  Symbol name = -1;
  std::string_view attribute;  // set name.attribute = ...
  std::vector<Target> parts;   // not empty: unpack into these
};

struct Parameter {
  Symbol name;
  const Expr* otherwise;  // null: none
};

struct Stmt {
  enum Type : uint8_t {
    kText,      // text
    kOutput,    // expr
    kIf,        // branches; a null condition is else
    kFor,       // target, expr, condition, body, otherwise
    kSet,       // target, expr
    kSetBlock,  // target, body, filters
    kMacro,     // target.name, parameters, body
    kCall,      // expr is the call, parameters, body
    kFilter,    // filters, body
    kScope,     // body in a scope of its own: {% generation %}, {% with %}
    kBreak,
    kContinue,
  };
  Type type = kText;
  int line = 0;
  std::string_view text;
  const Expr* expr = nullptr;
  const Expr* condition = nullptr;
  const Expr* filters = nullptr;  // applied to the rendered body, its innermost input is null
  Target target;
  std::vector<std::pair<Symbol, const Expr*>> assignments;  // {% with a = x %}
  std::vector<Parameter> parameters;
  bool takes_varargs = false;  // a macro whose body names `varargs` takes any number of arguments
  bool takes_kwargs = false;   // likewise `kwargs`
  std::vector<std::pair<const Expr*, Body>> branches;
  Body body;
  Body otherwise;
};

struct Program {
  Body body;
  std::deque<Expr> exprs;
  std::deque<Stmt> stmts;
  std::deque<std::string> strings;
  std::map<std::string, Symbol, std::less<>> symbols;
  std::vector<std::string_view> names;  // by symbol
};

}  // namespace nanoflow::jinja
