#include "api/openai_request.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <system_error>

#include <fmt/format.h>

#include "api/field_reader.h"
#include "api/structure_fields.h"

namespace nanoflow {
namespace {

constexpr int32_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxLogprobs = 20;  // OpenAI's limit, and the engine's

/// [1, 2, 3] as token ids; nullopt (after reader.fail) when an element is no id.
std::optional<std::vector<int32_t>> token_ids(FieldReader& reader, const Json& list) {
  std::vector<int32_t> ids;
  for (const Json& item : list.as_array()) {
    const std::optional<int64_t> id = whole_number(item);
    if (!id.has_value() || *id < 0 || *id > kMaxInt32) {
      reader.fail("prompt", "token ids must be non-negative integers");
      return std::nullopt;
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

/// "prompt": a string, a list of strings, a list of token ids, or a list of such lists.
void read_prompts(FieldReader& reader, const RequestLimits& limits, OpenAiRequest& request) {
  const Json* prompt = reader.find("prompt");
  if (prompt == nullptr) return reader.fail("prompt", "is required");
  if (prompt->is_string()) {
    request.prompts.emplace_back(prompt->as_string());
    return;
  }
  if (!prompt->is_array())
    return reader.fail("prompt", fmt::format("must be a string, a list of token ids, or a list of "
                                             "those, not {}",
                                             prompt->type_name()));
  const Json::Array& list = prompt->as_array();
  if (list.empty()) return reader.fail("prompt", "must not be empty");
  if (list.front().is_number()) {
    if (auto ids = token_ids(reader, *prompt)) request.prompts.emplace_back(std::move(*ids));
    return;
  }
  if (static_cast<int64_t>(list.size()) > limits.max_prompts)
    return reader.fail("prompt", fmt::format("at most {} prompts in one request, got {}",
                                             limits.max_prompts, list.size()));
  for (const Json& item : list) {
    if (item.is_string() && list.front().is_string()) {
      request.prompts.emplace_back(item.as_string());
    } else if (item.is_array() && list.front().is_array()) {
      auto ids = token_ids(reader, item);
      if (!ids.has_value()) return;
      request.prompts.emplace_back(std::move(*ids));
    } else {
      return reader.fail("prompt", "a list must hold only strings or only lists of token ids");
    }
  }
}

void read_logit_bias(FieldReader& reader, SamplingParams& sampling) {
  const Json* bias = reader.find("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object())
    return reader.fail("logit_bias", "must be an object of token id to number");
  std::map<int32_t, float> by_id;  // "7" and "07" are one token: the last one counts
  for (const auto& [key, value] : bias->as_object()) {
    int64_t id = -1;
    const char* end = key.data() + key.size();
    const auto parsed = std::from_chars(key.data(), end, id);
    if (parsed.ec != std::errc() || parsed.ptr != end || id < 0 || id > kMaxInt32)
      return reader.fail("logit_bias", fmt::format("\"{}\" is no token id", key));
    if (!value.is_number() || !(std::abs(value.as_double()) <= 100))
      return reader.fail("logit_bias", "values must be numbers between -100 and 100");
    by_id[static_cast<int32_t>(id)] = static_cast<float>(value.as_double());
  }
  sampling.logit_bias.assign(by_id.begin(), by_id.end());
}

/// A field that clients write as -1 for "off" where the engine says 0.
void read_top_k(FieldReader& reader, SamplingParams& sampling) {
  reader.read("top_k", sampling.top_k, -1, kMaxInt32);
  sampling.top_k = std::max<int64_t>(sampling.top_k, 0);
}

void read_seed(FieldReader& reader, SamplingParams& sampling) {
  if (reader.find("seed") == nullptr) return;
  int64_t seed = 0;
  reader.read("seed", seed, std::numeric_limits<int64_t>::min(),
              std::numeric_limits<int64_t>::max());
  sampling.seed = static_cast<uint64_t>(seed);
}

void read_max_tokens(FieldReader& reader, OpenAiRequest& request) {
  const bool chat = request.endpoint == Endpoint::kChatCompletions;
  if (chat) reader.allow({"max_tokens"});  // max_completion_tokens wins
  const char* key = chat && reader.find("max_completion_tokens") != nullptr
                        ? "max_completion_tokens"
                        : "max_tokens";
  if (reader.find(key) != nullptr) {
    int64_t max_tokens = 0;
    reader.read(key, max_tokens, 0, kMaxInt32);
    request.sampling.max_tokens = max_tokens;
  } else {
    request.max_tokens_is_default = true;
  }
  if (request.sampling.max_tokens == 0 && !request.echo)
    reader.fail(key, "must be at least 1, or 0 together with \"echo\": true");
  if (request.sampling.max_tokens.has_value() &&
      request.sampling.min_tokens > *request.sampling.max_tokens)
    reader.fail("min_tokens",
                fmt::format("must be at most {} ({}), got {}", key, *request.sampling.max_tokens,
                            request.sampling.min_tokens));
}

void read_sampling(FieldReader& reader, OpenAiRequest& request) {
  SamplingParams& s = request.sampling;
  constexpr double kTiny = 1e-6;  // the open end of (0, 1]
  reader.read("temperature", s.temperature, 0, 100);
  reader.read("top_p", s.top_p, kTiny, 1);
  read_top_k(reader, s);
  reader.read("min_p", s.min_p, 0, 1);
  reader.read("repetition_penalty", s.repetition_penalty, kTiny, 100);
  reader.read("presence_penalty", s.presence_penalty, -2, 2);
  reader.read("frequency_penalty", s.frequency_penalty, -2, 2);
  read_seed(reader, s);
  read_logit_bias(reader, s);
  reader.read("min_tokens", s.min_tokens, 0, kMaxInt32);
  reader.read("ignore_eos", s.ignore_eos);
  reader.read("stop_token_ids", s.stop_token_ids, 0, kMaxInt32);
  reader.read("priority", s.priority, -kMaxInt32, kMaxInt32);
  reader.read("prompt_logprobs", s.prompt_logprobs, 0, kMaxLogprobs);
}

/// Completions: "logprobs": n. Chat: "logprobs": true and "top_logprobs": n.
void read_logprobs(FieldReader& reader, OpenAiRequest& request) {
  constexpr int64_t most = kMaxLogprobs;
  if (request.endpoint == Endpoint::kCompletions) {
    reader.read("logprobs", request.sampling.logprobs, 0, most);
    return;
  }
  bool wanted = false;
  int64_t top = 0;
  reader.read("logprobs", wanted);
  reader.read("top_logprobs", top, 0, most);
  if (!wanted && reader.find("top_logprobs") != nullptr && top > 0)
    return reader.fail("top_logprobs", "needs \"logprobs\": true");
  if (wanted) request.sampling.logprobs = top;
}

void refuse_unknown(FieldReader& reader) {
  for (const std::string& name : reader.unknown()) reader.fail(name, "is not a known field");
}

void read_stream(FieldReader& reader, const Json& body, OpenAiRequest& request) {
  reader.read("stream", request.stream);
  const Json* options = reader.find("stream_options");
  if (options == nullptr) return;
  if (!request.stream) return reader.fail("stream_options", "needs \"stream\": true");
  if (!options->is_object()) return reader.fail("stream_options", "must be an object");
  FieldReader inner(*body.find("stream_options"), "stream_options.");
  inner.read("include_usage", request.include_usage);
  inner.read("continuous_usage_stats", request.continuous_usage_stats);
  refuse_unknown(inner);
  if (!inner.ok()) reader.adopt(*inner.error());
}

void read_chat(FieldReader& reader, OpenAiRequest& request) {
  const Json* messages = reader.find("messages");
  if (messages == nullptr || !messages->is_array() || messages->as_array().empty())
    return reader.fail("messages", "must be a non-empty list");
  request.messages = *messages;
  if (const Json* documents = reader.find("documents")) {
    if (!documents->is_array()) return reader.fail("documents", "must be a list");
    request.documents = *documents;
  }
  if (const Json* kwargs = reader.find("chat_template_kwargs")) {
    if (!kwargs->is_object()) return reader.fail("chat_template_kwargs", "must be an object");
    request.template_kwargs = *kwargs;
  }
  reader.read("add_generation_prompt", request.add_generation_prompt);
  reader.read("continue_final_message", request.continue_final_message);
  reader.read("parse_special_in_messages", request.parse_special_in_messages);
  if (request.continue_final_message) {
    if (reader.find("add_generation_prompt") == nullptr) request.add_generation_prompt = false;
    if (request.add_generation_prompt)
      reader.fail("continue_final_message", "cannot be combined with add_generation_prompt");
  }
}

/// Whether a field that cannot be served asks for nothing: null, false, "", [] or {}.
bool asks_nothing(const Json& value) {
  if (value.is_bool()) return !value.as_bool();
  if (value.is_string()) return value.as_string().empty();
  if (value.is_array()) return value.as_array().empty();
  return value.is_null() || (value.is_object() && value.as_object().empty());
}

/// Fields of OpenAI and vLLM that would change the answer and cannot be served: ignoring one would
/// answer another question than was asked.
void refuse_unsupported(FieldReader& reader) {
  for (const char* key : {"suffix", "use_beam_search", "bad_words", "allowed_token_ids"}) {
    const Json* value = reader.find(key);
    if (value != nullptr && !asks_nothing(*value))
      reader.fail(key, "is not supported", ErrorCode::kUnsupported);
  }
  const Json* best_of = reader.find("best_of");
  const Json* n = reader.find("n");
  if (best_of != nullptr && whole_number(*best_of) != (n == nullptr ? 1 : whole_number(*n)))
    reader.fail("best_of", "is not supported unless it equals n", ErrorCode::kUnsupported);
}

/// Combinations that no single field shows.
void check_combinations(FieldReader& reader, const OpenAiRequest& request,
                        const RequestLimits& limits) {
  if (static_cast<int64_t>(request.stop.size()) > limits.max_stop_strings)
    reader.fail("stop", fmt::format("at most {} stop strings", limits.max_stop_strings));
  for (const std::string& stop : request.stop)
    if (stop.empty()) reader.fail("stop", "a stop string must not be empty");
  if (request.stream && request.sampling.prompt_logprobs >= 0)
    reader.fail("prompt_logprobs", "cannot be combined with \"stream\": true");
}

/// A call that is asked for is a structure of the output as any other.
void read_tools(FieldReader& reader, OpenAiRequest& request) {
  request.tools = read_tool_fields(reader, request.endpoint == Endpoint::kChatCompletions);
  if (!reader.ok()) return;
  Result<std::optional<GrammarSource>> structure = tool_structure(request.tools);
  if (!structure.has_value()) return reader.adopt(structure.error());
  if (!structure->has_value()) return;
  if (request.structure.has_value())
    return reader.fail("tool_choice",
                       fmt::format("cannot be combined with {}", request.structure->param));
  request.structure = std::move(*structure);
}

/// All fields of a body; errors stay with the reader.
OpenAiRequest read_request(FieldReader& reader, Endpoint endpoint, const Json& body,
                           const SamplingDefaults& defaults, const RequestLimits& limits) {
  OpenAiRequest request;
  request.endpoint = endpoint;
  request.sampling.temperature = defaults.temperature;
  request.sampling.top_p = defaults.top_p;
  request.sampling.top_k = defaults.top_k;
  request.sampling.min_p = defaults.min_p;
  request.sampling.repetition_penalty = defaults.repetition_penalty;
  if (endpoint == Endpoint::kCompletions)
    request.sampling.max_tokens = defaults.completion_max_tokens;
  reader.read("model", request.model);
  if (endpoint == Endpoint::kChatCompletions) {
    read_chat(reader, request);
  } else {
    read_prompts(reader, limits, request);
    reader.read("echo", request.echo);
  }
  read_sampling(reader, request);
  read_max_tokens(reader, request);
  read_logprobs(reader, request);
  read_stream(reader, body, request);
  reader.read("n", request.n, 1, limits.max_choices);
  reader.read_strings("stop", request.stop);
  reader.read("include_stop_str_in_output", request.include_stop_str_in_output);
  reader.read("skip_special_tokens", request.skip_special_tokens);
  reader.read("return_token_ids", request.return_token_ids);
  reader.read("return_tokens_as_token_ids", request.return_tokens_as_token_ids);
  if (reader.find("add_special_tokens") != nullptr) {
    bool value = true;
    reader.read("add_special_tokens", value);
    request.add_special_tokens = value;
  }
  if (reader.find("truncate_prompt_tokens") != nullptr) {
    int64_t keep = 1;
    reader.read("truncate_prompt_tokens", keep, 1, kMaxInt32);
    request.truncate_prompt_tokens = keep;
  }
  request.structure = read_structure(reader);
  read_tools(reader, request);
  refuse_unsupported(reader);
  check_combinations(reader, request, limits);
  reader.allow({"user", "metadata", "store", "service_tier", "safety_identifier",
                "prompt_cache_key", "prompt_cache_retention", "request_id"});
  return request;
}

}  // namespace

Result<OpenAiRequest> parse_openai_request(Endpoint endpoint, const Json& body,
                                           const SamplingDefaults& defaults,
                                           const RequestLimits& limits) {
  if (!body.is_object())
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("the body must be a JSON object, not {}", body.type_name()));
  FieldReader reader(body);
  OpenAiRequest request = read_request(reader, endpoint, body, defaults, limits);
  if (limits.allow_unknown_fields) {
    request.unknown_fields = reader.unknown();
  } else {
    refuse_unknown(reader);
  }
  if (!reader.ok()) return tl::unexpected(*reader.error());
  return request;
}

std::set<std::string_view> known_fields(Endpoint endpoint) {
  // What the parser asks of a body that has what is required: it asks for every field.
  const Json body = Json::object({{"prompt", "a"}, {"messages", Json::array({Json::object()})}});
  FieldReader reader(body);
  (void)read_request(reader, endpoint, body, {}, {});
  return reader.known();
}

}  // namespace nanoflow
