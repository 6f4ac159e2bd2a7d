// The token stream, interning and limits that the parser's halves share.
#include "text/jinja_parser_base.h"

#include <algorithm>

#include <fmt/format.h>

namespace nanoflow::jinja {

namespace {

constexpr int kMaxNesting = 100;    // brackets and blocks inside each other
constexpr int kMaxTreeDepth = 300;  // also of chains such as a + b + c + ...

}  // namespace

ExprParser::Nesting::Nesting(ExprParser& parser) : parser_(parser) {
  if (++parser_.nesting_ > kMaxNesting) {
    --parser_.nesting_;
    parser_.fail("the template is nested too deeply");
  }
}

void ExprParser::fail(const std::string& message) const {
  throw TemplateError(TemplateError::kSyntax, message, now().line);
}

void ExprParser::fail_unexpected(std::string_view wanted) const {
  std::string got = "'" + now().text + "'";
  if (now().type == Token::kEnd) got = "the end of the template";
  if (now().type == Token::kBlockEnd) got = "'%}'";
  if (now().type == Token::kOutputEnd) got = "'}}'";
  if (now().type == Token::kInteger || now().type == Token::kFloat) got = "a number";
  if (now().type == Token::kString) got = "a string";
  fail(fmt::format("expected {}, got {}", wanted, got));
}

const Token& ExprParser::take() {
  const Token& token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool ExprParser::take_if(std::string_view op) {
  if (!now().is(op)) return false;
  take();
  return true;
}

bool ExprParser::take_name(std::string_view name) {
  if (!now().is_name(name)) return false;
  take();
  return true;
}

void ExprParser::expect(std::string_view op) {
  if (!take_if(op)) fail_unexpected(fmt::format("'{}'", op));
}

void ExprParser::expect(Token::Type type, std::string_view what) {
  if (now().type != type) fail_unexpected(what);
  take();
}

std::string_view ExprParser::expect_any_name() {
  if (now().type != Token::kName) fail_unexpected("a name");
  return keep(take().text);
}

std::string_view ExprParser::keep(std::string_view text) {
  return program_.strings.emplace_back(text);
}

Symbol ExprParser::symbol(std::string_view name) {
  const auto [it, fresh] =
      program_.symbols.try_emplace(std::string(name), static_cast<Symbol>(program_.names.size()));
  if (fresh) program_.names.push_back(it->first);
  return it->second;
}

Expr& ExprParser::make(Expr::Type type, int line) {
  Expr& node = program_.exprs.emplace_back();
  node.type = type;
  node.line = line;
  return node;
}

const Expr* ExprParser::done(Expr& node) {
  const auto deepen = [&](const Expr* child) {
    if (child != nullptr) node.depth = std::max(node.depth, child->depth + 1);
  };
  for (const Expr* child : node.args) deepen(child);
  for (const Expr* child : node.call.positional) deepen(child);
  for (const auto& [name, child] : node.call.named) deepen(child);
  deepen(node.call.more_positional);
  deepen(node.call.more_named);
  if (node.depth > kMaxTreeDepth) fail("an expression is too long or nested too deeply");
  return &node;
}

}  // namespace nanoflow::jinja
