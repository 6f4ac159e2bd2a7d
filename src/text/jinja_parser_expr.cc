// Expressions, by recursive descent in Jinja's order of precedence.
#include <algorithm>

#include <fmt/format.h>

#include "text/jinja_parser_base.h"

namespace nanoflow::jinja {

namespace {

constexpr size_t kMaxArgs = 255;

}  // namespace

const Expr* ExprParser::binary(Expr::Type type, Op op, const Expr* a, const Expr* b, int line) {
  Expr& node = make(type, line);
  node.op = op;
  node.args = {a, b};
  return done(node);
}

const Expr* ExprParser::expression(bool condition) {
  const Nesting guard(*this);
  return condition ? conditional() : logical_or();
}

const Expr* ExprParser::tuple(bool condition) {
  const int line = now().line;
  const Expr* first = expression(condition);
  if (!now().is(",")) return first;
  Expr& node = make(Expr::kTuple, line);
  node.args.push_back(first);
  while (take_if(",")) {
    const Token& t = now();
    if (t.type == Token::kOutputEnd || t.type == Token::kBlockEnd || t.is(")")) break;
    node.args.push_back(expression(condition));
  }
  return done(node);
}

const Expr* ExprParser::conditional() {
  const int line = now().line;
  const Expr* value = logical_or();
  while (take_name("if")) {
    const Expr* condition = logical_or();
    const Expr* otherwise = nullptr;
    if (take_name("else")) {
      const Nesting guard(*this);
      otherwise = conditional();
    }
    Expr& node = make(Expr::kCond, line);
    node.args = {condition, value, otherwise};
    value = done(node);
  }
  return value;
}

const Expr* ExprParser::logical_or() {
  const int line = now().line;
  const Expr* left = logical_and();
  while (take_name("or")) left = binary(Expr::kOr, Op::kAdd, left, logical_and(), line);
  return left;
}

const Expr* ExprParser::logical_and() {
  const int line = now().line;
  const Expr* left = logical_not();
  while (take_name("and")) left = binary(Expr::kAnd, Op::kAdd, left, logical_not(), line);
  return left;
}

const Expr* ExprParser::logical_not() {
  const int line = now().line;
  if (!take_name("not")) return comparison();
  const Nesting guard(*this);
  Expr& node = make(Expr::kUnary, line);
  node.op = Op::kNot;
  node.args = {logical_not()};
  return done(node);
}

bool ExprParser::comparison_operator(Op& op) {
  static constexpr std::pair<std::string_view, Op> kOperators[] = {
      {"==", Op::kEq}, {"!=", Op::kNe}, {"<", Op::kLt},
      {"<=", Op::kLe}, {">", Op::kGt},  {">=", Op::kGe}};
  for (const auto& [text, value] : kOperators) {
    if (take_if(text)) {
      op = value;
      return true;
    }
  }
  if (take_name("in")) {
    op = Op::kIn;
    return true;
  }
  if (now().is_name("not") && ahead().is_name("in")) {
    take();
    take();
    op = Op::kNotIn;
    return true;
  }
  return false;
}

const Expr* ExprParser::comparison() {
  const int line = now().line;
  const Expr* left = sum();
  Op op{};
  if (!comparison_operator(op)) return left;
  Expr& node = make(Expr::kCompare, line);
  node.args.push_back(left);
  do {
    node.ops.push_back(op);
    node.args.push_back(sum());
  } while (comparison_operator(op));
  return done(node);
}

const Expr* ExprParser::sum() {
  const int line = now().line;
  const Expr* left = concatenation();
  while (now().is("+") || now().is("-")) {
    const Op op = take().text == "+" ? Op::kAdd : Op::kSub;
    left = binary(Expr::kBinary, op, left, concatenation(), line);
  }
  return left;
}

const Expr* ExprParser::concatenation() {
  const int line = now().line;
  const Expr* left = product();
  if (!now().is("~")) return left;
  Expr& node = make(Expr::kConcat, line);
  node.args.push_back(left);
  while (take_if("~")) node.args.push_back(product());
  return done(node);
}

const Expr* ExprParser::product() {
  const int line = now().line;
  const Expr* left = power();
  while (now().is("*") || now().is("/") || now().is("//") || now().is("%")) {
    const std::string& text = take().text;
    const Op op = text == "*"    ? Op::kMul
                  : text == "/"  ? Op::kDiv
                  : text == "//" ? Op::kFloorDiv
                                 : Op::kMod;
    left = binary(Expr::kBinary, op, left, power(), line);
  }
  return left;
}

const Expr* ExprParser::power() {
  const int line = now().line;
  const Expr* left = unary(true);
  while (take_if("**")) left = binary(Expr::kBinary, Op::kPow, left, unary(true), line);
  return left;
}

const Expr* ExprParser::unary(bool with_filter) {
  const int line = now().line;
  const Expr* node = nullptr;
  if (now().is("-") || now().is("+")) {
    const Nesting guard(*this);
    const Op op = take().text == "-" ? Op::kNeg : Op::kPos;
    Expr& made = make(Expr::kUnary, line);
    made.op = op;
    made.args = {unary(false)};
    node = done(made);
  } else {
    node = primary();
  }
  node = postfix(node);
  return with_filter ? filters_and_tests(node) : node;
}

const Expr* ExprParser::primary() {
  const Token& token = now();
  if (token.type == Token::kName) return name_or_literal();
  if (token.is("(")) return parenthesized();
  if (token.is("[")) return list_literal();
  if (token.is("{")) return dict_literal();
  Expr& node = make(Expr::kConst, token.line);
  if (token.type == Token::kString) {
    std::string text;
    while (now().type == Token::kString) text += take().text;  // 'a' 'b' is 'ab'
    node.constant = Value::of(keep(text));
  } else if (token.type == Token::kInteger) {
    node.constant = Value::of(take().integer);
  } else if (token.type == Token::kFloat) {
    node.constant = Value::of(take().real);
  } else {
    fail_unexpected("an expression");
  }
  return &node;
}

const Expr* ExprParser::name_or_literal() {
  const Token& token = take();
  const std::string& text = token.text;
  Expr& node = make(Expr::kConst, token.line);
  if (text == "true" || text == "True") {
    node.constant = Value::of(true);
  } else if (text == "false" || text == "False") {
    node.constant = Value::of(false);
  } else if (text == "none" || text == "None") {
    node.constant = Value::none();
  } else {
    node.type = Expr::kName;
    names_varargs_ = names_varargs_ || text == "varargs";
    names_kwargs_ = names_kwargs_ || text == "kwargs";
    node.symbol = symbol(text);
    node.name = program_.names[static_cast<size_t>(node.symbol)];
  }
  return &node;
}

const Expr* ExprParser::parenthesized() {
  const int line = now().line;
  expect("(");
  if (take_if(")")) return done(make(Expr::kTuple, line));
  const Expr* inner = tuple();
  expect(")");
  return inner;
}

const Expr* ExprParser::list_literal() {
  Expr& node = make(Expr::kList, now().line);
  expect("[");
  while (!now().is("]")) {
    node.args.push_back(expression());
    if (!take_if(",")) break;
  }
  expect("]");
  return done(node);
}

const Expr* ExprParser::dict_literal() {
  Expr& node = make(Expr::kDict, now().line);
  expect("{");
  while (!now().is("}")) {
    node.args.push_back(expression());
    expect(":");
    node.args.push_back(expression());
    if (!take_if(",")) break;
  }
  expect("}");
  return done(node);
}

const Expr* ExprParser::postfix(const Expr* node) {
  while (true) {
    if (now().is(".") || now().is("[")) {
      node = subscript(node);
    } else if (now().is("(")) {
      node = call(node);
    } else {
      return node;
    }
  }
}

const Expr* ExprParser::filters_and_tests(const Expr* node) {
  while (true) {
    if (now().is("|")) {
      node = filter_chain(node, true);
    } else if (now().is_name("is")) {
      node = test(node);
    } else if (now().is("(")) {
      node = call(node);
    } else {
      return node;
    }
  }
}

const Expr* ExprParser::subscript(const Expr* node) {
  const int line = now().line;
  if (take_if(".")) {
    if (now().type == Token::kInteger) {
      Expr& index = make(Expr::kConst, line);
      index.constant = Value::of(take().integer);
      return binary(Expr::kItem, Op::kAdd, node, &index, line);
    }
    Expr& attribute = make(Expr::kAttr, line);
    attribute.args = {node};
    attribute.name = expect_any_name();
    return done(attribute);
  }
  expect("[");
  const Expr* bounds[3] = {nullptr, nullptr, nullptr};
  size_t colons = 0;
  while (!now().is("]")) {
    if (take_if(":")) {
      if (++colons > 2) fail_unexpected("']'");
    } else if (bounds[colons] == nullptr) {
      bounds[colons] = colons == 0 ? tuple() : expression();
    } else {
      fail_unexpected("']'");
    }
  }
  expect("]");
  if (colons == 0) {
    if (bounds[0] == nullptr) fail("expected an expression between '[' and ']'");
    return binary(Expr::kItem, Op::kAdd, node, bounds[0], line);
  }
  Expr& slice = make(Expr::kSlice, line);
  slice.args = {node, bounds[0], bounds[1], bounds[2]};
  return done(slice);
}

CallArgs ExprParser::call_args() {
  CallArgs args;
  expect("(");
  while (!now().is(")")) {
    if (now().is("*") || now().is("**")) {
      const Expr*& slot = now().is("*") ? args.more_positional : args.more_named;
      if (slot != nullptr || args.more_named != nullptr) fail("malformed arguments of a call");
      take();
      slot = expression();
    } else if (now().type == Token::kName && ahead().is("=")) {
      const std::string_view name = expect_any_name();
      expect("=");
      for (const auto& [other, value] : args.named) {
        if (other == name) fail(fmt::format("the argument '{}' is given twice", name));
      }
      args.named.emplace_back(name, expression());
    } else {
      if (!args.named.empty() || args.more_positional != nullptr || args.more_named != nullptr) {
        fail("a positional argument follows a named one");
      }
      args.positional.push_back(expression());
    }
    if (args.positional.size() + args.named.size() > kMaxArgs)
      fail("a call has too many arguments");
    if (!take_if(",")) break;
  }
  expect(")");
  return args;
}

const Expr* ExprParser::call(const Expr* callee) {
  static constexpr std::string_view kRefused[] = {"lipsum", "cycler", "joiner", "gettext",
                                                  "_",      "self",   "super"};
  Expr& node = make(Expr::kCall, now().line);
  if (callee->type == Expr::kName &&
      std::find(std::begin(kRefused), std::end(kRefused), callee->name) != std::end(kRefused)) {
    fail(fmt::format("the function '{}' is not supported", callee->name));
  }
  node.args = {callee};
  node.call = call_args();
  return done(node);
}

const Expr* ExprParser::filter_chain(const Expr* input, bool pipe_first) {
  while (pipe_first ? take_if("|") : true) {
    pipe_first = true;
    Expr& node = make(Expr::kFilter, now().line);
    node.name = expect_any_name();
    node.filter = find_filter(node.name);
    if (node.filter == nullptr) fail(fmt::format("the filter '{}' is not supported", node.name));
    node.args = {input};
    if (now().is("(")) node.call = call_args();
    input = done(node);
  }
  return input;
}

const Expr* ExprParser::test(const Expr* node) {
  const int line = take().line;
  const bool negated = take_name("not");
  Expr& made = make(Expr::kTest, line);
  made.name = expect_any_name();
  made.test = find_test(made.name);
  if (made.test == nullptr) fail(fmt::format("the test '{}' is not supported", made.name));
  made.args = {node};
  const Token& next = now();
  const bool operand = next.type == Token::kName
                           ? !next.is_name("else") && !next.is_name("or") && !next.is_name("and")
                           : next.type == Token::kString || next.type == Token::kInteger ||
                                 next.type == Token::kFloat || next.is("[") || next.is("{");
  if (next.is("(")) {
    made.call = call_args();
  } else if (operand) {
    if (next.is_name("is")) fail("tests cannot be chained with 'is'");
    if (!(next.is_name("if") || next.is_name("in") || next.is_name("not"))) {
      const Nesting guard(*this);
      made.call.positional.push_back(postfix(primary()));
    }
  }
  const Expr* result = done(made);
  if (!negated) return result;
  Expr& inverse = make(Expr::kUnary, line);
  inverse.op = Op::kNot;
  inverse.args = {result};
  return done(inverse);
}

}  // namespace nanoflow::jinja
