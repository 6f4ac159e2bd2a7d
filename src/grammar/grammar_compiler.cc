#include "grammar/grammar_compiler.h"

#include <algorithm>
#include <condition_variable>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "grammar/grammar_matcher.h"
#include "text/unicode.h"

namespace nanoflow {
namespace {

/// XGrammar's recursion stays far below a thread's stack.
constexpr int kMaxRecursion = 1000;

/// Blanks in one place of an output in JSON: enough for any usual indentation, too few for a model
/// that goes on with blanks for ever.
constexpr int kMaxBlanks = 32;
/// Sources that took too long, remembered so that they are refused at once the next time.
constexpr size_t kMaxRemembered = 1024;

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
                                               std::nullopt, false, kMaxBlanks);
    case GrammarKind::kJsonSchema:
      return xgrammar::Grammar::FromJSONSchema(source.text, true, std::nullopt, std::nullopt, true,
                                               kMaxBlanks);
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
/// It may also cut characters in two.
std::string short_message(std::string bytes) {
  constexpr size_t kMost = 300;
  std::replace(bytes.begin(), bytes.end(), '\n', ' ');
  std::string text;
  drain_utf8(bytes, true, BadBytes::kPerSequence, text);
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
  std::condition_variable done;
  std::optional<Result<Compiled>> result;
  bool late = false;  ///< nobody waits for it any more
};

Error too_long(std::chrono::milliseconds timeout, const std::string& param) {
  return {ErrorCode::kInvalidArgument,
          fmt::format("takes more than {} ms to compile", timeout.count()), param};
}

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
  Result<void> begin(const Key& key, const std::string& param);
  void end(Job& job, const Key& key, Result<Compiled> result);
  Result<Constraint> wait_for(Job& job, const Key& key, const std::string& param);

  const GrammarCompilerOptions options;
  const int64_t vocab_size;
  const xgrammar::TokenizerInfo vocabulary;
  xgrammar::GrammarCompiler compiler;  // without a cache of its own, it has no state

  std::mutex mutex;                            // guards what follows
  int64_t compiling = 0;                       // with somebody who waits
  int64_t late = 0;                            // without
  std::set<Key> too_slow;                      // what took too long
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

/// Takes a place for a compilation.
Result<void> GrammarCompiler::Shared::begin(const Key& key, const std::string& param) {
  const std::lock_guard lock(mutex);
  if (too_slow.count(key) > 0) return tl::unexpected(too_long(options.timeout, param));
  if (compiling >= options.max_compiling)
    return fail(ErrorCode::kResourceExhausted,
                fmt::format("{} grammars are being compiled already; try again later", compiling),
                param);
  if (late >= options.max_late)
    return fail(ErrorCode::kResourceExhausted,
                fmt::format("{} grammars still compile after their time was over; only grammars "
                            "that were compiled before are served until they end",
                            late),
                param);
  ++compiling;
  return {};
}

/// Of the compiling thread.
void GrammarCompiler::Shared::end(Job& job, const Key& key, Result<Compiled> result) {
  if (result) keep(key, *result);
  const std::lock_guard lock(mutex);
  if (job.late) {
    --late;
    if (result) too_slow.erase(key);  // it is known from now on
    return;
  }
  --compiling;
  job.result = std::move(result);
  job.done.notify_all();
}

Result<Constraint> GrammarCompiler::Shared::wait_for(Job& job, const Key& key,
                                                     const std::string& param) {
  std::unique_lock lock(mutex);
  if (!job.done.wait_for(lock, options.timeout, [&] { return job.result.has_value(); })) {
    job.late = true;
    --compiling;
    ++late;
    if (too_slow.size() >= kMaxRemembered) too_slow.erase(too_slow.begin());
    too_slow.insert(key);
    return tl::unexpected(too_long(options.timeout, param));
  }
  if (!*job.result) return tl::unexpected(job.result->error());
  return (*job.result)->constraint;
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
  if (auto begun = shared_->begin(key, source.param); !begun) return tl::unexpected(begun.error());
  const auto job = std::make_shared<Job>();
  try {
    std::thread([job, key, source, shared = shared_] {
      shared->end(*job, key, shared->compile_now(source));
    }).detach();
  } catch (const std::system_error& e) {
    shared_->end(*job, key,
                 fail(ErrorCode::kResourceExhausted,
                      fmt::format("no thread to compile it: {}", e.what()), source.param));
  }
  return shared_->wait_for(*job, key, source.param);
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
