// Statements.
#include "text/jinja_parser.h"

#include <algorithm>
#include <initializer_list>

#include <fmt/format.h>

#include "text/jinja_parser_base.h"

namespace nanoflow::jinja {

namespace {

using Ends = std::initializer_list<std::string_view>;

class Parser final : public ExprParser {
 public:
  using ExprParser::ExprParser;

  Body whole() {
    Body body = statements({});
    return body;
  }

 private:
  Stmt& make_stmt(Stmt::Type type, int line) {
    Stmt& stmt = program_.stmts.emplace_back();
    stmt.type = type;
    stmt.line = line;
    return stmt;
  }

  void block_end() { expect(Token::kBlockEnd, "'%}'"); }

  // Statements up to {% <one of ends>; that name is left as the current token. No ends: the end of
  // the template.
  Body statements(Ends ends) {
    Body body;
    while (true) {
      const Token& token = now();
      if (token.type == Token::kEnd) {
        if (ends.size() == 0) return body;
        fail(fmt::format("unexpected end of the template, '{}' is missing", *(ends.end() - 1)));
      }
      if (token.type == Token::kData) {
        Stmt& stmt = make_stmt(Stmt::kText, token.line);
        stmt.text = keep(take().text);
        body.push_back(&stmt);
      } else if (token.type == Token::kOutputBegin) {
        Stmt& stmt = make_stmt(Stmt::kOutput, take().line);
        stmt.expr = tuple();
        expect(Token::kOutputEnd, "'}}'");
        body.push_back(&stmt);
      } else {
        expect(Token::kBlockBegin, "'{%'");
        const auto ended = [&](std::string_view end) { return now().is_name(end); };
        if (std::any_of(ends.begin(), ends.end(), ended)) return body;
        statement(body);
        block_end();
      }
    }
  }

  // The body of a block tag whose head is parsed: '%}' statements '{% end'. Takes the end's name.
  Body block(Ends ends) {
    const Nesting guard(*this);
    take_if(":");
    block_end();
    Body body = statements(ends);
    return body;
  }

  Body block_to(std::string_view end) {
    Body body = block({end});
    take();
    return body;
  }

  void statement(Body& body) {
    if (now().type != Token::kName) fail_unexpected("a tag name");
    const int line = now().line;
    const std::string name = take().text;
    if (name == "if") {
      body.push_back(&if_statement(line));
    } else if (name == "for") {
      body.push_back(&for_statement(line));
    } else if (name == "set") {
      body.push_back(&set_statement(line));
    } else if (name == "macro") {
      body.push_back(&macro_statement(line));
    } else if (name == "call") {
      body.push_back(&call_statement(line));
    } else if (name == "filter") {
      body.push_back(&filter_statement(line));
    } else if (name == "with") {
      body.push_back(&with_statement(line));
    } else if (name == "generation") {
      body.push_back(&generation_statement(line));
    } else if (name == "print") {
      print_statement(body, line);
    } else if (name == "break" || name == "continue") {
      if (loops_ == 0) fail(fmt::format("'{}' outside of a loop", name));
      body.push_back(&make_stmt(name == "break" ? Stmt::kBreak : Stmt::kContinue, line));
    } else {
      fail(fmt::format("the tag '{}' is unknown or not supported", name));
    }
  }

  Stmt& if_statement(int line) {
    Stmt& stmt = make_stmt(Stmt::kIf, line);
    const Expr* condition = tuple(false);
    while (true) {
      Body body = block({"elif", "else", "endif"});
      stmt.branches.emplace_back(condition, std::move(body));
      if (take_name("elif")) {
        condition = tuple(false);
        continue;
      }
      if (take_name("else")) {
        stmt.branches.emplace_back(nullptr, block_to("endif"));
        return stmt;
      }
      take();
      return stmt;
    }
  }

  Stmt& for_statement(int line) {
    Stmt& stmt = make_stmt(Stmt::kFor, line);
    stmt.target = target_list();
    if (!take_name("in")) fail_unexpected("'in'");
    stmt.expr = tuple(false);
    if (take_name("if")) stmt.condition = expression();
    if (now().is_name("recursive")) fail("recursive loops are not supported");
    ++loops_;
    stmt.body = block({"endfor", "else"});
    --loops_;
    if (take_name("else")) {
      stmt.otherwise = block_to("endfor");
    } else {
      take();
    }
    return stmt;
  }

  Symbol target_name() {
    const std::string_view name = expect_any_name();
    static constexpr std::string_view kConstants[] = {"true", "false", "none",
                                                      "True", "False", "None"};
    if (std::find(std::begin(kConstants), std::end(kConstants), name) != std::end(kConstants)) {
      fail(fmt::format("cannot assign to '{}'", name));
    }
    return symbol(name);
  }

  // One name, or targets in parentheses.
  Target target_item() {
    Target t;
    if (take_if("(")) {
      const Nesting guard(*this);
      t = target_list();
      expect(")");
    } else {
      t.name = target_name();
    }
    if (now().is("(") || now().is("[") || now().is(".")) fail_unexpected("a name");
    return t;
  }

  Target target_list() {
    Target first = target_item();
    if (!now().is(",")) return first;
    Target t;
    t.parts.push_back(std::move(first));
    while (take_if(",")) {
      if (!now().is("(") && (now().type != Token::kName || now().is_name("in"))) break;
      t.parts.push_back(target_item());
    }
    return t;
  }

  Target set_target() {
    if (now().type != Token::kName || !ahead().is(".")) return target_list();
    Target t;
    t.name = target_name();
    expect(".");
    t.attribute = expect_any_name();
    if (now().is(",")) fail("several assignments with a namespace attribute are not supported");
    return t;
  }

  Stmt& set_statement(int line) {
    Stmt& stmt = make_stmt(Stmt::kSet, line);
    stmt.target = set_target();
    if (take_if("=")) {
      stmt.expr = tuple();
      return stmt;
    }
    stmt.type = Stmt::kSetBlock;
    if (now().is("|")) stmt.filters = filter_chain(nullptr, true);
    stmt.body = block_to("endset");
    return stmt;
  }

  // Bodies of macros and calls are functions: a break in them has no loop.
  void function_body(Stmt& stmt, std::string_view end) {
    const int outer_loops = std::exchange(loops_, 0);
    const bool outer_varargs = std::exchange(names_varargs_, false);
    const bool outer_kwargs = std::exchange(names_kwargs_, false);
    stmt.body = block_to(end);
    stmt.takes_varargs = names_varargs_;
    stmt.takes_kwargs = names_kwargs_;
    loops_ = outer_loops;
    names_varargs_ = outer_varargs;
    names_kwargs_ = outer_kwargs;
  }

  std::vector<Parameter> parameters() {
    std::vector<Parameter> out;
    expect("(");
    while (!now().is(")")) {
      const Symbol name = target_name();
      for (const Parameter& other : out) {
        if (other.name == name) fail("a parameter is named twice");
      }
      const Expr* otherwise = take_if("=") ? expression() : nullptr;
      if (otherwise == nullptr && !out.empty() && out.back().otherwise != nullptr) {
        fail("a parameter without default follows one with a default");
      }
      out.push_back({name, otherwise});
      if (out.size() > 255) fail("a macro has too many parameters");
      if (!take_if(",")) break;
    }
    expect(")");
    return out;
  }

  Stmt& macro_statement(int line) {
    Stmt& stmt = make_stmt(Stmt::kMacro, line);
    stmt.target.name = target_name();
    stmt.parameters = parameters();
    function_body(stmt, "endmacro");
    return stmt;
  }

  Stmt& call_statement(int line) {
    Stmt& stmt = make_stmt(Stmt::kCall, line);
    if (now().is("(")) stmt.parameters = parameters();
    stmt.expr = expression();
    if (stmt.expr->type != Expr::kCall) fail("expected a call");
    symbol("caller");
    function_body(stmt, "endcall");
    return stmt;
  }

  Stmt& filter_statement(int line) {
    Stmt& stmt = make_stmt(Stmt::kFilter, line);
    stmt.filters = filter_chain(nullptr, false);
    stmt.body = block_to("endfilter");
    return stmt;
  }

  Stmt& with_statement(int line) {
    Stmt& stmt = make_stmt(Stmt::kScope, line);
    while (now().type == Token::kName) {
      const Symbol name = target_name();
      expect("=");
      stmt.assignments.emplace_back(name, expression());
      if (!take_if(",")) break;
    }
    stmt.body = block_to("endwith");
    return stmt;
  }

  Stmt& generation_statement(int line) {
    Stmt& stmt = make_stmt(Stmt::kScope, line);
    function_body(stmt, "endgeneration");
    return stmt;
  }

  void print_statement(Body& body, int line) {
    do {
      Stmt& stmt = make_stmt(Stmt::kOutput, line);
      stmt.expr = expression();
      body.push_back(&stmt);
    } while (take_if(","));
  }

  int loops_ = 0;
};

}  // namespace

std::unique_ptr<const Program> parse(std::string_view source) {
  auto program = std::make_unique<Program>();
  Parser parser(*program, tokenize(source));
  program->body = parser.whole();
  return program;
}

}  // namespace nanoflow::jinja
