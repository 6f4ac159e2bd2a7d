// Evaluation of expressions.
#include <algorithm>

#include <fmt/format.h>

#include "text/jinja_machine.h"

namespace nanoflow::jinja {

Machine::Enter::Enter(Machine& machine) : machine_(machine) {
  machine.heap_.charge(1);
  if (++machine.depth_ > machine.heap_.limits().depth) {
    throw TemplateError(TemplateError::kLimit,
                        "the chat template calls itself too deeply or is nested too deeply");
  }
}

Value Machine::eval(const Expr& e) {
  if (e.type == Expr::kConst) return e.constant;
  line_ = e.line;
  if (e.type == Expr::kName) return eval_name(e);
  const Enter guard(*this);
  return eval_inner(e);
}

Value Machine::eval_inner(const Expr& e) {
  switch (e.type) {
    case Expr::kConst: return e.constant;
    case Expr::kName: return eval_name(e);
    case Expr::kList: return eval_sequence(e, Kind::kList);
    case Expr::kTuple: return eval_sequence(e, Kind::kTuple);
    case Expr::kDict: return eval_dict(e);
    case Expr::kUnary: return eval_unary(e);
    case Expr::kBinary: {
      const Value left = eval(*e.args[0]);
      return arithmetic(heap_, e.op, left, eval(*e.args[1]));
    }
    case Expr::kConcat: return eval_concat(e);
    case Expr::kCompare: return eval_compare(e);
    case Expr::kAnd: {
      const Value left = eval(*e.args[0]);
      return truthy(left) ? eval(*e.args[1]) : left;
    }
    case Expr::kOr: {
      const Value left = eval(*e.args[0]);
      return truthy(left) ? left : eval(*e.args[1]);
    }
    case Expr::kCond: return eval_conditional(e);
    case Expr::kAttr: return attribute(eval(*e.args[0]), e.name);
    case Expr::kItem: {
      const Value object = eval(*e.args[0]);
      const Value key = eval(*e.args[1]);
      if (object.kind == Kind::kLoop && key.is_string()) return attribute(object, key.text());
      return get_item(heap_, object, key);
    }
    case Expr::kSlice: return eval_slice(e);
    case Expr::kCall: return eval_call(e);
    case Expr::kFilter: return eval_filter(e);
    case Expr::kTest: return eval_test(e);
  }
  return {};
}

const Value* Machine::lookup(Symbol symbol) {
  for (Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    heap_.charge(1 + scope->variables.size() / 8);
    for (const auto& [name, value] : scope->variables) {
      if (name == symbol) return &value;
    }
  }
  return nullptr;
}

Value Machine::eval_name(const Expr& e) {
  const Value* found = lookup(e.symbol);
  return found != nullptr ? *found : Value::undefined(Missing::kVariable, e.name);
}

Value Machine::eval_sequence(const Expr& e, Kind kind) {
  std::vector<Value> items;
  items.reserve(e.args.size());
  for (const Expr* item : e.args) items.push_back(eval(*item));
  return heap_.list(items, kind);
}

Value Machine::eval_dict(const Expr& e) {
  std::vector<Entry> entries;
  for (size_t i = 0; i < e.args.size(); i += 2) {
    const Value key = eval(*e.args[i]);
    entries.push_back({key, eval(*e.args[i + 1])});
  }
  return heap_.dict(entries);
}

Value Machine::eval_unary(const Expr& e) {
  const Value v = eval(*e.args[0]);
  return e.op == Op::kNot ? Value::of(!truthy(v)) : sign(e.op, v);
}

Value Machine::eval_concat(const Expr& e) {
  Text text(heap_);
  for (const Expr* part : e.args) append_str(text, heap_, eval(*part));
  return text.finish();
}

Value Machine::eval_compare(const Expr& e) {
  Value left = eval(*e.args[0]);
  for (size_t i = 0; i < e.ops.size(); ++i) {
    const Value right = eval(*e.args[i + 1]);
    if (!compare(heap_, e.ops[i], left, right)) return Value::of(false);
    left = right;
  }
  return Value::of(true);
}

Value Machine::eval_conditional(const Expr& e) {
  if (truthy(eval(*e.args[0]))) return eval(*e.args[1]);
  if (e.args[2] != nullptr) return eval(*e.args[2]);
  return Value::undefined(Missing::kHint,
                          "the inline if-expression evaluated to false and no else section was "
                          "defined.");
}

Value Machine::attribute(const Value& object, std::string_view name) {
  if (object.kind == Kind::kLoop) return loop_attribute(*object.loop, name);
  return get_attribute(heap_, object, name);
}

Value Machine::eval_slice(const Expr& e) {
  const Value object = eval(*e.args[0]);
  Value bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    bounds[i] = e.args[i + 1] != nullptr ? eval(*e.args[i + 1]) : Value::none();
  }
  return get_slice(heap_, object, bounds[0], bounds[1], bounds[2]);
}

// **more: names come from a dict.
void Machine::add_named(Args& args, const Value& more) {
  if (!more.is_dict()) raise("the argument after ** must be a mapping");
  for (size_t i = 0; i < more.size; ++i) {
    const Entry& entry = more.entries[i];
    if (!entry.key.is_string()) raise("keywords must be strings");
    heap_.charge(1 + args.named.size() / 8);
    for (const auto& [name, value] : args.named) {
      if (name == entry.key.text()) {
        raise(fmt::format("got multiple values for keyword argument '{}'", name));
      }
    }
    args.named.emplace_back(entry.key.text(), entry.value);
  }
}

Args Machine::eval_args(const CallArgs& call) {
  Args args;
  args.positional.reserve(call.positional.size());
  for (const Expr* arg : call.positional) args.positional.push_back(eval(*arg));
  for (const auto& [name, arg] : call.named) args.named.emplace_back(name, eval(*arg));
  if (call.more_positional != nullptr) {
    for (const Value& v : iterate(heap_, eval(*call.more_positional))) {
      args.positional.push_back(v);
    }
  }
  if (call.more_named != nullptr) add_named(args, eval(*call.more_named));
  return args;
}

Value Machine::eval_call(const Expr& e) {
  const Expr& callee = *e.args[0];
  const bool dotted = callee.type == Expr::kAttr;
  const Value object = eval(dotted ? *callee.args[0] : callee);
  if (dotted) require_defined(object);
  const Args args = eval_args(e.call);
  line_ = e.line;
  return dotted ? call_attribute(callee, args, object) : call(object, args);
}

// object.name(args), without making a bound method first.
Value Machine::call_attribute(const Expr& callee, const Args& args, const Value& object) {
  if (object.kind == Kind::kLoop) return call_loop_method(*object.loop, callee.name, args);
  if (find_method(object.kind, callee.name) == MethodKind::kSupported) {
    return call_method(heap_, Method{object, callee.name}, args);
  }
  return call(attribute(object, callee.name), args);
}

Value Machine::call(const Value& callee, const Args& args) {
  switch (callee.kind) {
    case Kind::kUndefined: raise(undefined_message(callee));
    case Kind::kFunction: return call_function(callee.function, args);
    case Kind::kMacro: return call_macro(*callee.macro, args);
    case Kind::kMethod: return call_method(heap_, *callee.method, args);
    default: raise(fmt::format("'{}' object is not callable", type_name(callee)));
  }
}

Value Machine::eval_filter(const Expr& e) {
  const Value input = eval(*e.args[0]);
  const Args args = eval_args(e.call);
  line_ = e.line;
  return e.filter(heap_, input, args);
}

Value Machine::apply_filters(const Expr* chain, const Value& body) {
  if (chain == nullptr) return body;
  const Enter guard(*this);
  const Value input = apply_filters(chain->args[0], body);
  return chain->filter(heap_, input, eval_args(chain->call));
}

Value Machine::eval_test(const Expr& e) {
  const Value v = eval(*e.args[0]);
  const Args args = eval_args(e.call);
  line_ = e.line;
  return Value::of(e.test(heap_, v, args));
}

}  // namespace nanoflow::jinja
