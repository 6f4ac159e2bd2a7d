// What the two halves of the parser share: the token stream, node making, limits.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace nanoflow::jinja {

class ExprParser {
 public:
  ExprParser(Program& program, std::vector<Token> tokens)
      : program_(program), tokens_(std::move(tokens)) {}

 protected:
  /// A whole expression; with `condition` false without inline if (for ... in EXPR if ...).
  const Expr* expression(bool condition = true);
  /// An expression, or a tuple without parentheses.
  const Expr* tuple(bool condition = true);
  /// `| name(args)` chains applied to `input` (null: the body of a block).
  const Expr* filter_chain(const Expr* input, bool pipe_first);

  [[nodiscard]] const Token& now() const { return tokens_[at_]; }
  [[nodiscard]] const Token& ahead() const {
    return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_];
  }
  const Token& take();
  bool take_if(std::string_view op);
  bool take_name(std::string_view name);
  void expect(std::string_view op);
  void expect(Token::Type type, std::string_view what);
  std::string_view expect_any_name();
  [[noreturn]] void fail(const std::string& message) const;
  [[noreturn]] void fail_unexpected(std::string_view wanted) const;

  std::string_view keep(std::string_view text);
  Symbol symbol(std::string_view name);
  Expr& make(Expr::Type type, int line);
  /// Sets the depth from the children; fails when the tree is too deep.
  const Expr* done(Expr& node);

  /// Limits recursion of the parser itself.
  class Nesting {
   public:
    explicit Nesting(ExprParser& parser);
    ~Nesting() { --parser_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    ExprParser& parser_;
  };

  Program& program_;
  bool names_varargs_ = false;  // since the innermost macro began
  bool names_kwargs_ = false;

 private:
  const Expr* conditional();
  const Expr* logical_or();
  const Expr* logical_and();
  const Expr* logical_not();
  const Expr* comparison();
  const Expr* sum();
  const Expr* concatenation();
  const Expr* product();
  const Expr* power();
  const Expr* unary(bool with_filter);
  const Expr* primary();
  const Expr* name_or_literal();
  const Expr* parenthesized();
  const Expr* list_literal();
  const Expr* dict_literal();
  const Expr* postfix(const Expr* node);
  const Expr* filters_and_tests(const Expr* node);
  const Expr* subscript(const Expr* node);
  const Expr* test(const Expr* node);
  const Expr* call(const Expr* callee);
  CallArgs call_args();
  const Expr* binary(Expr::Type type, Op op, const Expr* a, const Expr* b, int line);
  bool comparison_operator(Op& op);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace nanoflow::jinja
