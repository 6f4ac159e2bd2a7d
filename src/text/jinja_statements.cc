// Execution of statements, scopes, loops and macros.
#include <algorithm>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "text/jinja_machine.h"

namespace nanoflow::jinja {

Machine::Machine(const Program& program, const Context& context)
    : program_(program),
      context_(context),
      heap_(context.limits),
      loop_symbol_(find_symbol("loop")),
      caller_symbol_(find_symbol("caller")) {
  scope_ = enter_scope(nullptr);
}

Rendered Machine::run() {
  Rendered output;
  out_ = &output;
  try {
    for (const std::string_view text : context_.literal_texts) heap_.mark_literal(text);
    define_functions();
    for (const auto& [name, json] : context_.variables) {
      const Symbol symbol = find_symbol(name);
      // What the template does not name is not worth converting.
      if (symbol >= 0) set(*scope_, symbol, from_json(heap_, *json));
    }
    exec(program_.body);
  } catch (TemplateError& error) {
    error.set_line(line_);
    throw;
  }
  return output;
}

Symbol Machine::find_symbol(std::string_view name) const {
  const auto it = program_.symbols.find(name);
  return it != program_.symbols.end() ? it->second : -1;
}

Scope* Machine::enter_scope(Scope* parent) {
  heap_.charge(2);
  scopes_.push_back(std::make_unique<Scope>(parent));
  return scopes_.back().get();
}

void Machine::leave_scope(Scope* scope, Scope* back_to) {
  scope_ = back_to;
  if (!scope->captured && scopes_.back().get() == scope) scopes_.pop_back();
}

void Machine::set(Scope& scope, Symbol symbol, const Value& value) {
  heap_.charge(1 + scope.variables.size() / 8);
  for (auto& [name, old] : scope.variables) {
    if (name == symbol) {
      old = value;
      return;
    }
  }
  scope.variables.emplace_back(symbol, value);
}

void Machine::write(std::string_view text) {
  heap_.charge(text.size() / 64);
  if (text.size() > heap_.limits().output_bytes - open_output_bytes_) {
    throw TemplateError(TemplateError::kLimit,
                        fmt::format("the chat template writes more than {} MiB",
                                    heap_.limits().output_bytes >> 20));
  }
  open_output_bytes_ += text.size();
  const size_t spans = out_->literal.size();
  heap_.add_literal_spans(text, out_->text.size(), out_->literal);
  heap_.count_bytes((out_->literal.size() - spans) * sizeof(TextSpan));
  out_->text += text;
}

void Machine::write(const Value& v) {
  if (v.is_string()) return write(v.text());
  write(to_str(heap_, v).text());
}

Value Machine::capture(const Body& body) {
  Rendered captured;
  Rendered* outer = std::exchange(out_, &captured);
  exec(body);
  out_ = outer;
  open_output_bytes_ -= captured.text.size();
  const Value v = heap_.string(captured.text);
  for (const TextSpan& span : captured.literal) {
    heap_.mark_literal(v.text().substr(span.begin, span.end - span.begin));
  }
  return v;
}

Flow Machine::exec(const Body& body) {
  const Enter guard(*this);
  for (const Stmt* stmt : body) {
    const Flow flow = exec_one(*stmt);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Flow Machine::exec_one(const Stmt& s) {
  heap_.charge(1);
  line_ = s.line;
  switch (s.type) {
    case Stmt::kText: write(s.text); break;
    case Stmt::kOutput: write(eval(*s.expr)); break;
    case Stmt::kIf: return exec_if(s);
    case Stmt::kFor: return exec_for(s);
    case Stmt::kSet:
    case Stmt::kSetBlock:
    case Stmt::kFilter: exec_set(s); break;
    case Stmt::kMacro:
      set(*scope_, s.target.name,
          make_macro(s, program_.names[static_cast<size_t>(s.target.name)]));
      break;
    case Stmt::kCall: exec_call(s); break;
    case Stmt::kScope: return exec_scope(s);
    case Stmt::kBreak: return Flow::kBreak;
    case Stmt::kContinue: return Flow::kContinue;
  }
  return Flow::kNext;
}

Flow Machine::exec_if(const Stmt& s) {
  for (const auto& [condition, body] : s.branches) {
    if (condition == nullptr || truthy(eval(*condition))) return exec(body);
  }
  return Flow::kNext;
}

Flow Machine::exec_scope(const Stmt& s) {
  Scope* outer = scope_;
  std::vector<Value> values;  // all are evaluated outside of the new scope
  for (const auto& [name, expr] : s.assignments) values.push_back(eval(*expr));
  Scope* inner = enter_scope(outer);
  for (size_t i = 0; i < values.size(); ++i) set(*inner, s.assignments[i].first, values[i]);
  scope_ = inner;
  const Flow flow = exec(s.body);
  leave_scope(inner, outer);
  return flow;
}

void Machine::exec_set(const Stmt& s) {
  if (s.type == Stmt::kSet) return assign(s.target, eval(*s.expr));
  Scope* outer = scope_;
  Scope* inner = enter_scope(outer);
  scope_ = inner;
  const Value text = apply_filters(s.filters, capture(s.body));
  leave_scope(inner, outer);
  if (s.type == Stmt::kFilter) return write(text);
  assign(s.target, text);
}

void Machine::exec_call(const Stmt& s) {
  const Value callee = eval(*s.expr->args[0]);
  Args args = eval_args(s.expr->call);
  args.named.emplace_back("caller", make_macro(s, "caller"));
  line_ = s.line;
  write(call(callee, args));
}

void Machine::assign(const Target& target, const Value& value) {
  if (!target.attribute.empty()) return assign_attribute(target, value);
  if (target.parts.empty()) return set(*scope_, target.name, value);
  const std::vector<Value> items = iterate(heap_, value);
  const size_t wanted = target.parts.size();
  if (items.size() < wanted) {
    raise(fmt::format("not enough values to unpack (expected {}, got {})", wanted, items.size()));
  }
  if (items.size() > wanted) {
    raise(fmt::format("too many values to unpack (expected {})", wanted));
  }
  for (size_t i = 0; i < wanted; ++i) assign(target.parts[i], items[i]);
}

void Machine::assign_attribute(const Target& target, const Value& value) {
  const Value* object = lookup(target.name);
  if (object == nullptr || object->kind != Kind::kNamespace) {
    raise("cannot assign attribute on non-namespace object");
  }
  if (target.attribute.starts_with('_')) {
    raise("a namespace attribute must not start with an underscore");
  }
  std::vector<Entry>& attributes = object->space->attributes;
  heap_.charge(1 + attributes.size() / 8);
  for (Entry& entry : attributes) {
    if (entry.key.is_string() && entry.key.text() == target.attribute) {
      entry.value = value;
      return;
    }
  }
  attributes.push_back({Value::of(target.attribute), value});
}

// The next item that passes the loop's filter.
bool Machine::fetch(LoopState& loop, Value& out) {
  while (loop.next < loop.size) {
    out = loop.items[loop.next++];
    if (!loop.filtered) return true;
    Scope* back = scope_;
    Scope* inner = enter_scope(loop.outer);
    scope_ = inner;
    assign(loop.stmt->target, out);
    const bool passes = truthy(eval(*loop.stmt->condition));
    leave_scope(inner, back);
    if (passes) return true;
  }
  return false;
}

bool Machine::peek(LoopState& loop) {
  if (!loop.has_ahead) loop.has_ahead = fetch(loop, loop.ahead);
  return loop.has_ahead;
}

int64_t Machine::loop_length(LoopState& loop) {
  if (loop.length >= 0) return loop.length;
  if (loop.filtered) {  // count by fetching all that is left
    std::vector<Value> rest;
    Value item;
    while (fetch(loop, item)) rest.push_back(item);
    const Value all = heap_.list(rest);
    loop.items = all.items;
    loop.size = all.size;
    loop.next = 0;
    loop.filtered = false;
    loop.length = static_cast<int64_t>(rest.size()) + loop.index0 + 1 + (loop.has_ahead ? 1 : 0);
  } else {
    loop.length = static_cast<int64_t>(loop.size);
  }
  return loop.length;
}

Flow Machine::exec_for(const Stmt& s) {
  const Value source = eval(*s.expr);
  const bool in_place = source.is_sequence() || source.kind == Kind::kView;
  const Value items = in_place ? source : heap_.list(iterate(heap_, source));
  auto* loop = std::construct_at(heap_.allocate<LoopState>(1));
  loop->stmt = &s;
  loop->outer = scope_;
  loop->items = items.items;
  loop->size = items.size;
  loop->filtered = s.condition != nullptr;
  const Flow flow = exec_iterations(s, *loop);
  if (loop->index0 < 0 && !s.otherwise.empty()) {
    Scope* inner = enter_scope(loop->outer);
    scope_ = inner;
    const Flow otherwise = exec(s.otherwise);
    leave_scope(inner, loop->outer);
    return otherwise;
  }
  return flow;
}

Flow Machine::exec_iterations(const Stmt& s, LoopState& loop) {
  Scope* scope = nullptr;
  Value item;
  while (loop.has_ahead || fetch(loop, item)) {
    if (loop.has_ahead) item = loop.ahead;
    loop.has_ahead = false;
    ++loop.index0;
    loop.has_previous = loop.index0 > 0;
    loop.previous = loop.current;
    loop.current = item;
    if (scope == nullptr || scope->captured) {
      scope = enter_scope(loop.outer);
    } else {
      scope->variables.clear();
    }
    scope_ = scope;
    if (loop_symbol_ >= 0) {
      Value v = Value::of(Kind::kLoop);
      v.loop = &loop;
      set(*scope, loop_symbol_, v);
    }
    assign(s.target, item);
    const Flow flow = exec(s.body);
    scope_ = loop.outer;
    if (flow == Flow::kBreak) break;
  }
  if (scope != nullptr) leave_scope(scope, loop.outer);
  return Flow::kNext;
}

Value Machine::make_macro(const Stmt& definition, std::string_view name) {
  for (Scope* scope = scope_; scope != nullptr && !scope->captured; scope = scope->parent) {
    heap_.check_room(sizeof(Scope));
    static_cast<void>(heap_.allocate<Scope*>(sizeof(Scope) / sizeof(Scope*)));
    scope->captured = true;  // and paid for, since it stays to the end
  }
  Value v = Value::of(Kind::kMacro);
  v.macro =
      std::construct_at(heap_.allocate<MacroObject>(1), MacroObject{&definition, name, scope_});
  return v;
}

Value Machine::call_macro(const MacroObject& macro, const Args& args) {
  const Enter guard(*this);
  Scope* back = scope_;
  Scope* inner = enter_scope(macro.scope);
  scope_ = inner;
  bind_parameters(macro, args);
  const Value text = capture(macro.definition->body);
  leave_scope(inner, back);
  return text;
}

void Machine::bind_parameters(const MacroObject& macro, const Args& args) {
  const std::vector<Parameter>& parameters = macro.definition->parameters;
  const size_t taken = std::min(args.positional.size(), parameters.size());
  if (taken < args.positional.size() && !macro.definition->takes_varargs) {
    raise(fmt::format("macro '{}' takes not more than {} argument(s)", macro.name,
                      parameters.size()));
  }
  std::vector<const Value*> given(parameters.size(), nullptr);
  for (size_t i = 0; i < taken; ++i) given[i] = &args.positional[i];
  std::vector<Entry> rest;
  for (const auto& [name, value] : args.named) {
    const Symbol symbol = find_symbol(name);
    const auto at = std::find_if(parameters.begin(), parameters.end(),
                                 [&](const Parameter& p) { return p.name == symbol; });
    if (at != parameters.end()) {
      const Value*& slot = given[static_cast<size_t>(at - parameters.begin())];
      if (slot != nullptr) {
        raise(fmt::format("macro '{}' got multiple values for argument '{}'", macro.name, name));
      }
      slot = &value;
    } else if (name == "caller") {
      if (caller_symbol_ >= 0) set(*scope_, caller_symbol_, value);
    } else if (macro.definition->takes_kwargs) {
      rest.push_back({Value::of(name), value});
    } else {
      raise(fmt::format("macro '{}' takes no keyword argument '{}'", macro.name, name));
    }
  }
  if (macro.definition->takes_varargs) {
    const std::vector<Value> more(args.positional.begin() + static_cast<std::ptrdiff_t>(taken),
                                  args.positional.end());
    set(*scope_, find_symbol("varargs"), heap_.list(more, Kind::kTuple));
  }
  if (macro.definition->takes_kwargs) set(*scope_, find_symbol("kwargs"), heap_.dict(rest));
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto& [name, otherwise] = parameters[i];
    Value v = Value::undefined(Missing::kHint, "a parameter of the macro was not provided");
    if (given[i] != nullptr) {
      v = *given[i];
    } else if (otherwise != nullptr) {
      v = eval(*otherwise);
    }
    set(*scope_, name, v);
  }
}

Rendered render(const Program& program, const Context& context) {
  return Machine(program, context).run();
}

}  // namespace nanoflow::jinja
