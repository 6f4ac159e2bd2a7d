#include "grammar/grammar_compiler.h"

#include <algorithm>
#include <condition_variable>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "grammar/grammar_matcher.h"

namespace nanoflow {
namespace {

/// XGrammar's recursion stays far below a thread's stack.
constexpr int kMaxRecursion = 1000;

/// What XGrammar warned of on this thread: each of its warnings says that it enforces less than it
/// was asked for.
std::string& warning() {
  thread_local std::string text;
  return text;
}

xgrammar::TokenizerInfo vocabulary_of(const Tokenizer& tokenizer, int64_t vocab_size) {
  const auto known = std::min<int64_t>(tokenizer.vocab_size(), vocab_size);
  std::vector<std::string> texts(static_cast<size_t>(known));
  for (int32_t id = 0; id < static_cast<int32_t>(known); ++id) {
    // A token without text is never allowed, as a control token must not be.
    if (!tokenizer.is_special(id)) texts[static_cast<size_t>(id)] = tokenizer.token_bytes(id);
  }
  return {texts, xgrammar::VocabType::RAW, static_cast<int>(vocab_size), std::vector<int32_t>{}};
}

xgrammar::Grammar grammar_of(const GrammarSource& source, const xgrammar::TokenizerInfo& tokens) {
  switch (source.kind) {
    case GrammarKind::kJsonObject:
      return xgrammar::Grammar::FromJSONSchema(R"({"type":"object"})", true, std::nullopt,
                                               std::nullopt, false);
    case GrammarKind::kJsonSchema: return xgrammar::Grammar::FromJSONSchema(source.text);
    case GrammarKind::kRegex: return xgrammar::Grammar::FromRegex(source.text);
    case GrammarKind::kChoice:
    case GrammarKind::kEbnf: return xgrammar::Grammar::FromEBNF(source.text);
    case GrammarKind::kStructuralTag: {
      auto parsed = xgrammar::Grammar::FromStructuralTag(source.text, tokens);
      if (auto* grammar = std::get_if<xgrammar::Grammar>(&parsed)) return *grammar;
      std::visit([](const auto& e) { throw std::runtime_error(e.what()); },
                 std::get<xgrammar::StructuralTagError>(parsed));
    }
  }
  throw std::runtime_error("unknown kind of grammar");
}

/// Whether an output can begin, or be empty.
bool allows_anything(const TokenConstraint& constraint, int64_t vocab_size) {
  const std::vector<int32_t> any_end = {0};
  std::vector<int32_t> mask(static_cast<size_t>(mask_words(vocab_size)));
  return constraint.start(any_end)->fill_mask(mask) &&
         std::any_of(mask.begin(), mask.end(), [](int32_t word) { return word != 0; });
}

/// One line of bounded length: XGrammar repeats its input in some messages.
std::string short_message(std::string text) {
  constexpr size_t kMost = 300;
  std::replace(text.begin(), text.end(), '\n', ' ');
  if (text.size() <= kMost) return text;
  size_t end = kMost;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return text.substr(0, end) + "...";
}

using Key = std::tuple<GrammarKind, std::string>;
using Constraint = std::shared_ptr<const TokenConstraint>;

struct Compiled {
  Constraint constraint;
  size_t bytes = 0;
};

/// One compilation, of its thread and of who waits for it.
struct Job {
  std::mutex mutex;
  std::condition_variable done;
  std::optional<Result<Compiled>> result;
};

}  // namespace

struct GrammarCompiler::Shared {
  Shared(const Tokenizer& tokenizer, int64_t size, const GrammarCompilerOptions& given)
      : options(given),
        vocab_size(size),
        vocabulary(vocabulary_of(tokenizer, size)),
        compiler(vocabulary, 1, false) {}

  Result<Compiled> compile_now(const GrammarSource& source);
  Constraint find(const Key& key);
  void keep(const Key& key, const Compiled& compiled);

  const GrammarCompilerOptions options;
  const int64_t vocab_size;
  const xgrammar::TokenizerInfo vocabulary;
  xgrammar::GrammarCompiler compiler;  // without a cache of its own, it has no state

  std::mutex mutex;  // guards what follows
  int64_t compiling = 0;
  std::list<std::pair<Key, Compiled>> recent;  // the latest used first
  std::map<Key, std::list<std::pair<Key, Compiled>>::iterator> by_key;
  size_t bytes = 0;
};

Result<Compiled> GrammarCompiler::Shared::compile_now(const GrammarSource& source) {
  warning().clear();
  try {
    const xgrammar::Grammar grammar = grammar_of(source, vocabulary);
    xgrammar::CompiledGrammar compiled = compiler.CompileGrammar(grammar);
    if (!warning().empty())
      return fail(ErrorCode::kUnsupported, short_message(warning()), source.param);
    const size_t bytes_used = compiled.MemorySizeBytes() + source.text.size();
    auto constraint = std::make_shared<GrammarConstraint>(std::move(compiled), vocab_size);
    if (!allows_anything(*constraint, vocab_size))
      return fail(ErrorCode::kInvalidArgument, "matches no text at all", source.param);
    return Compiled{std::move(constraint), bytes_used};
  } catch (const std::exception& e) {
    return fail(ErrorCode::kInvalidArgument, short_message(e.what()), source.param);
  }
}

Constraint GrammarCompiler::Shared::find(const Key& key) {
  const std::lock_guard lock(mutex);
  const auto found = by_key.find(key);
  if (found == by_key.end()) return nullptr;
  recent.splice(recent.begin(), recent, found->second);
  return found->second->second.constraint;
}

void GrammarCompiler::Shared::keep(const Key& key, const Compiled& compiled) {
  const std::lock_guard lock(mutex);
  if (compiled.bytes > options.cache_bytes || by_key.count(key) > 0) return;
  recent.emplace_front(key, compiled);
  by_key.emplace(key, recent.begin());
  bytes += compiled.bytes;
  while (bytes > options.cache_bytes) {
    bytes -= recent.back().second.bytes;
    by_key.erase(recent.back().first);
    recent.pop_back();
  }
}

GrammarCompiler::GrammarCompiler(const Tokenizer& tokenizer, int64_t vocab_size,
                                 GrammarCompilerOptions options) {
  xgrammar::SetMaxRecursionDepth(kMaxRecursion);
  shared_ = std::make_shared<Shared>(tokenizer, vocab_size, options);
}

GrammarCompiler::~GrammarCompiler() = default;

Result<Constraint> GrammarCompiler::compile(const GrammarSource& source) {
  if (auto checked = check_grammar_source(source, shared_->options.limits); !checked)
    return tl::unexpected(checked.error());
  const Key key(source.kind, source.text);
  if (Constraint known = shared_->find(key)) return known;
  {
    const std::lock_guard lock(shared_->mutex);
    if (shared_->compiling >= shared_->options.max_compiling)
      return fail(ErrorCode::kResourceExhausted,
                  fmt::format("{} grammars are being compiled already; try again later",
                              shared_->compiling),
                  source.param);
    ++shared_->compiling;
  }
  const auto job = std::make_shared<Job>();
  std::thread([job, key, source, shared = shared_] {
    Result<Compiled> result = shared->compile_now(source);
    if (result) shared->keep(key, *result);
    {
      const std::lock_guard lock(shared->mutex);
      --shared->compiling;
    }
    const std::lock_guard lock(job->mutex);
    job->result = std::move(result);
    job->done.notify_all();
  }).detach();
  std::unique_lock lock(job->mutex);
  if (!job->done.wait_for(lock, shared_->options.timeout, [&] { return job->result.has_value(); }))
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("takes more than {} ms to compile", shared_->options.timeout.count()),
                source.param);
  if (!*job->result) return tl::unexpected(job->result->error());
  return (*job->result)->constraint;
}

}  // namespace nanoflow

// What XGrammar's build leaves to its user (XGRAMMAR_LOG_CUSTOMIZE): errors are thrown, and nothing
// is written to stderr, since messages hold what a request sent.
namespace xgrammar {

[[noreturn]] void LogFatalImpl(const std::string& file, int line, const std::string& message);
[[noreturn]] void LogFatalImpl(const std::string& /*file*/, int /*line*/,
                               const std::string& message) {
  throw std::runtime_error(message);
}

void LogMessageImpl(const std::string& file, int line, int level, const std::string& message);
void LogMessageImpl(const std::string& /*file*/, int /*line*/, int level,
                    const std::string& message) {
  constexpr int kWarning = 2;
  if (level >= kWarning && nanoflow::warning().empty()) nanoflow::warning() = message;
}

}  // namespace xgrammar
