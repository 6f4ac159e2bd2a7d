#include "client/load_requests.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "api/dataset.h"
#include "api/workload.h"
#include "base/error.h"
#include "base/random.h"

namespace nanoflow {
namespace {

// Special tokens and bytes are the first ids of most vocabularies.
constexpr int64_t kFirstOrdinaryId = 1000;

constexpr std::array<std::string_view, 8> kWords = {" the", " of", " and",  " to",
                                                    " in",  " is", " that", " for"};

/// The prompt of a request: text, token ids, or a chat's messages.
struct Prompt {
  Json content;
  bool is_messages = false;
  int64_t tokens = 0;  ///< as far as known without a tokeniser
  int64_t output_len = 0;
};

Json user_message(Json content) {
  return Json::array({Json::object({{"role", "user"}, {"content", std::move(content)}})});
}

std::string make_body(const LoadRequestOptions& o, Prompt prompt) {
  Json body = Json::object({{"model", o.model}});
  if (o.is_chat) {
    body.set("messages", prompt.is_messages ? std::move(prompt.content)
                                            : user_message(std::move(prompt.content)));
    body.set("max_completion_tokens", prompt.output_len);
  } else {
    body.set("prompt", std::move(prompt.content));
    body.set("max_tokens", prompt.output_len);
  }
  if (o.temperature.has_value()) body.set("temperature", *o.temperature);
  if (o.ignore_eos) body.set("ignore_eos", true);
  body.set("stream", true);
  body.set("stream_options", Json::object({{"include_usage", true}}));
  if (o.extra_body.is_object())
    for (const auto& [key, value] : o.extra_body.as_object()) body.set(key, value);
  return body.dump();
}

Json random_text(const WorkItem& item) {
  SplitMix64 random(item.prompt_seed);
  std::string text;
  for (int64_t i = 0; i < item.input_len; ++i) text += kWords[random.next() % kWords.size()];
  return text;
}

Json random_ids(const WorkItem& item, int64_t vocab_size) {
  SplitMix64 random(item.prompt_seed);
  const int64_t first = std::min(kFirstOrdinaryId, vocab_size / 2);
  Json ids{Json::Array{}};
  for (int64_t i = 0; i < item.input_len; ++i) ids.push_back(random.between(first, vocab_size - 1));
  return ids;
}

std::vector<LoadRequest> random_requests(const LoadRequestOptions& o) {
  WorkloadOptions workload{.num_requests = o.num_prompts,
                           .input_len = o.input_len,
                           .output_len = o.output_len,
                           .range_ratio = o.range_ratio,
                           .trace_in_order = true,
                           .seed = o.seed};
  if (o.dataset == "trace") workload.trace = o.path;
  std::vector<LoadRequest> requests;
  for (const WorkItem& item : make_workload(workload, INT32_MAX)) {
    Prompt prompt{.content = o.is_chat ? random_text(item) : random_ids(item, o.vocab_size),
                  .tokens = item.input_len,
                  .output_len = item.output_len};
    requests.push_back({make_body(o, std::move(prompt)), item.input_len, 0});
  }
  return requests;
}

/// A conversation's last text, for the endpoint that knows no chats.
Json last_text(const Json& messages) {
  if (!messages.is_array() || messages.as_array().empty()) return {};
  const Json* content = messages.as_array().back().find("content");
  return content != nullptr ? *content : Json();
}

int64_t output_len(const Json& body, int64_t otherwise) {
  for (const char* key : {"max_completion_tokens", "max_tokens", "output_tokens"}) {
    const Json* value = body.find(key);
    if (value != nullptr && value->is_int() && value->as_int() > 0) return value->as_int();
  }
  return otherwise;
}

Prompt prompt_of(const LoadRequestOptions& o, const Json& body) {
  Prompt prompt{.output_len = output_len(body, o.file_output_len)};
  if (const Json* messages = body.find("messages")) {
    prompt.is_messages = o.is_chat;
    prompt.content = o.is_chat ? *messages : last_text(*messages);
  } else if (const Json* text = body.find("prompt")) {
    prompt.content = *text;
  }
  return prompt;
}

std::vector<LoadRequest> file_requests(const LoadRequestOptions& o) {
  DatasetReader reader(o.path);
  std::vector<LoadRequest> requests;
  while (static_cast<int64_t>(requests.size()) < o.num_prompts) {
    const std::optional<DatasetItem> item = reader.next();
    if (!item.has_value()) break;
    if (!item->body.has_value()) continue;  // one bad line is that line's
    requests.push_back({make_body(o, prompt_of(o, *item->body)), 0, 0});
  }
  if (requests.empty())
    throw FormatError(o.path.string(), "has no item that a request could be made of");
  const size_t distinct = requests.size();
  while (static_cast<int64_t>(requests.size()) < o.num_prompts)
    requests.push_back(LoadRequest(requests[requests.size() % distinct]));
  return requests;
}

}  // namespace

std::vector<LoadRequest> make_load_requests(const LoadRequestOptions& options) {
  if (options.vocab_size < 2) throw ConfigError("--vocab-size", "must be at least 2");
  if (options.dataset == "random") return random_requests(options);
  if (options.path.empty())
    throw ConfigError("--dataset-path",
                      fmt::format("--dataset-name {} needs a file", options.dataset));
  return options.dataset == "trace" ? random_requests(options) : file_requests(options);
}

}  // namespace nanoflow
