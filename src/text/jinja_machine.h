// The interpreter's state, shared by jinja_expressions.cc, jinja_statements.cc and
// jinja_functions.cc. Nothing else includes this.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_interpreter.h"

namespace nanoflow::jinja {

/// Variables of one block. Inner scopes see outer ones; assignments stay in their own scope, so a
/// loop body starts afresh in every iteration, as in Jinja.
struct Scope {
  explicit Scope(Scope* outer) : parent(outer) {}
  Scope* parent;
  bool captured = false;  // a macro refers to it, so it lives until the render ends
  std::vector<std::pair<Symbol, Value>> variables;
};

/// A macro, or the body of a {% call %} as its `caller`.
struct MacroObject {
  const Stmt* definition;
  std::string_view name;
  Scope* scope;  // where it was defined
};

/// The `loop` variable. With a loop filter, items are tested when they are reached, not before:
/// the body may change what the filter sees.
struct LoopState {
  const Stmt* stmt = nullptr;
  Scope* outer = nullptr;
  const Value* items = nullptr;
  size_t size = 0;
  size_t next = 0;         // index into items of the next candidate
  bool filtered = false;   // items from `next` on must still pass stmt->condition
  bool has_ahead = false;  // `ahead` was fetched but not visited
  bool has_previous = false;
  bool has_changed = false;
  Value ahead;
  Value previous;
  Value current;
  Value changed;  // list: arguments of the last loop.changed()
  int64_t index0 = -1;
  int64_t length = -1;  // -1: not counted yet
};

enum class Flow : uint8_t { kNext, kBreak, kContinue };

class Machine {
 public:
  Machine(const Program& program, const Context& context);
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  Rendered run();

 private:
  // jinja_expressions.cc
  Value eval(const Expr& e);
  Value eval_inner(const Expr& e);
  Value eval_name(const Expr& e);
  Value eval_sequence(const Expr& e, Kind kind);
  Value eval_dict(const Expr& e);
  Value eval_unary(const Expr& e);
  Value eval_concat(const Expr& e);
  Value eval_compare(const Expr& e);
  Value eval_conditional(const Expr& e);
  Value eval_slice(const Expr& e);
  Value eval_call(const Expr& e);
  Value eval_filter(const Expr& e);
  Value eval_test(const Expr& e);
  Value attribute(const Value& object, std::string_view name);
  Value apply_filters(const Expr* chain, const Value& body);
  Args eval_args(const CallArgs& call);
  void add_named(Args& args, const Value& more);
  Value call(const Value& callee, const Args& args);
  Value call_attribute(const Expr& callee, const Args& args, const Value& object);

  // jinja_functions.cc
  void define_functions();
  Value call_function(int function, const Args& args);
  Value make_range(const Args& args);
  Value make_dict(const Args& args);
  Value strftime_now(const Args& args);
  Value loop_attribute(LoopState& loop, std::string_view name);
  Value call_loop_method(LoopState& loop, std::string_view name, const Args& args);

  // jinja_statements.cc
  Flow exec(const Body& body);
  Flow exec_one(const Stmt& s);
  Flow exec_if(const Stmt& s);
  Flow exec_for(const Stmt& s);
  Flow exec_iterations(const Stmt& s, LoopState& loop);
  Flow exec_scope(const Stmt& s);
  void exec_set(const Stmt& s);
  void exec_call(const Stmt& s);
  Value capture(const Body& body);
  void assign(const Target& target, const Value& value);
  void assign_attribute(const Target& target, const Value& value);
  bool fetch(LoopState& loop, Value& out);
  bool peek(LoopState& loop);
  int64_t loop_length(LoopState& loop);
  Value call_macro(const MacroObject& macro, const Args& args);
  void bind_parameters(const MacroObject& macro, const Args& args);
  Value make_macro(const Stmt& definition, std::string_view name);

  void write(const Value& v);
  void write(std::string_view text);
  Scope* enter_scope(Scope* parent);
  void leave_scope(Scope* scope, Scope* back_to);
  const Value* lookup(Symbol symbol);
  void set(Scope& scope, Symbol symbol, const Value& value);
  [[nodiscard]] Symbol find_symbol(std::string_view name) const;

  /// Counts nesting of evaluation; throws kLimit when it is too deep.
  class Enter {
   public:
    explicit Enter(Machine& machine);
    ~Enter() { --machine_.depth_; }
    Enter(const Enter&) = delete;
    Enter& operator=(const Enter&) = delete;

   private:
    Machine& machine_;
  };

  const Program& program_;
  const Context& context_;
  Heap heap_;
  std::vector<std::unique_ptr<Scope>> scopes_;
  Scope* scope_ = nullptr;
  Rendered* out_ = nullptr;
  size_t open_output_bytes_ = 0;  // in the output and all captures that are not finished
  int depth_ = 0;
  int line_ = 0;  // of the node that was entered last
  Symbol loop_symbol_;
  Symbol caller_symbol_;
};

}  // namespace nanoflow::jinja
