#include "app/chat.h"

#include <unistd.h>
#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "api/line_reader.h"
#include "app/signals.h"
#include "app/standard_output.h"
#include "base/error.h"

namespace nanoflow {
namespace {

constexpr int64_t kMaxLineBytes = int64_t{16} << 20;  // more than any context holds

/// The next line of stdin; none at its end, or when a signal came while waiting.
std::optional<std::string> read_line(LineReader& lines) {
  while (!lines.has_line()) {
    if (interrupted()) return std::nullopt;
    lines.wait();
  }
  std::string line;
  if (!lines.next(line)) return std::nullopt;
  if (static_cast<int64_t>(line.size()) > kMaxLineBytes)
    throw IoError("stdin", fmt::format("has a line of more than {} MiB", kMaxLineBytes >> 20));
  if (line.ends_with('\r')) line.pop_back();
  return line;
}

class Chat {
 public:
  Chat(AnswerStream& stream, const ChatOptions& options, int64_t max_model_len)
      : stream_(stream), options_(options), max_model_len_(max_model_len) {
    if (options.system.has_value()) messages_.push_back(chat_message("system", *options.system));
    num_fixed_ = messages_.size();
  }

  /// Answers `line`; an error leaves the conversation as it was.
  Result<void> answer(const std::string& line) {
    Json::Array messages = messages_;
    messages.push_back(chat_message("user", line));
    int64_t room = 0;
    Result<Completion> completion = fit(messages, room);
    if (!completion.has_value()) return tl::unexpected(completion.error());
    const Result<std::string> text =
        stream_.run(std::move(*completion), std::min(options_.max_tokens, room));
    write_stdout("\n");
    if (!text.has_value()) return tl::unexpected(text.error());
    messages.push_back(chat_message("assistant", *text));
    messages_ = std::move(messages);
    return {};
  }

 private:
  /// Leaves out the oldest turns of `messages` until an answer of some length fits; `room` gets the
  /// tokens that it may have.
  Result<Completion> fit(Json::Array& messages, int64_t& room) const {
    constexpr int64_t kContextShare = 4;  // an answer of less than a quarter is too short to wish
    const int64_t wanted =
        std::min(options_.max_tokens, std::max<int64_t>(1, max_model_len_ / kContextShare));
    int left_out = 0;
    while (true) {
      Json body = options_.sampling;
      body.set("messages", messages);
      Result<Completion> completion = stream_.prepare(Endpoint::kChatCompletions, body);
      if (!completion.has_value()) return completion;
      room = max_model_len_ - completion->prompt_tokens();
      const bool has_older = messages.size() >= num_fixed_ + 3;  // a turn before this message
      if (room >= wanted || !has_older) {
        if (left_out > 0)
          fmt::print(stderr,
                     "nanoflow: the conversation outgrew the context of {} tokens; its oldest {} "
                     "left out\n",
                     max_model_len_,
                     left_out == 1 ? "turn was" : fmt::format("{} turns were", left_out));
        if (room >= 1) return completion;
        return fail(ErrorCode::kContextTooLong,
                    fmt::format("the message makes {} prompt tokens, but the context holds {}; "
                                "shorten it or raise --max-model-len",
                                completion->prompt_tokens(), max_model_len_),
                    "messages");
      }
      const auto oldest = messages.begin() + static_cast<int64_t>(num_fixed_);
      messages.erase(oldest, oldest + 2);
      ++left_out;
    }
  }

  AnswerStream& stream_;
  const ChatOptions& options_;
  const int64_t max_model_len_;
  Json::Array messages_;
  size_t num_fixed_ = 0;  // the system message
};

}  // namespace

Json chat_message(const char* role, const std::string& content) {
  return Json::object({{"role", role}, {"content", content}});
}

int run_chat(AnswerStream& stream, const ChatOptions& options, int64_t max_model_len) {
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  if (terminal) fmt::print(stderr, "Chat; an empty line or Ctrl-D ends it, Ctrl-C an answer.\n");
  LineReader lines("-", kMaxLineBytes);
  Chat chat(stream, options, max_model_len);
  while (!interrupted()) {
    if (terminal) fmt::print(stderr, "> ");
    const std::optional<std::string> line = read_line(lines);
    if (!line.has_value()) break;
    if (line->empty() && terminal) return 0;
    if (line->empty()) continue;
    if (const Result<void> answered = chat.answer(*line); !answered.has_value()) {
      fmt::print(stderr, "nanoflow: {}\n", answered.error().message);
      // A person may rephrase, but a dead engine stays dead.
      if (!terminal || answered.error().code == ErrorCode::kInternal) return 1;
    }
    if (terminal && interrupted() && forgive_interrupt()) fmt::print(stderr, "(stopped)\n");
  }
  return interrupted() ? kInterruptedExit : 0;
}

}  // namespace nanoflow
