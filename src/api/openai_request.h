// OpenAI's completion and chat completion bodies, as vLLM extends them, parsed and checked. Nothing
// here knows a tokenizer or a template: it is the request as its sender wrote it.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "api/dataset.h"
#include "api/tool_fields.h"
#include "base/json.h"
#include "base/result.h"
#include "engine/request.h"
#include "grammar/grammar_source.h"

namespace nanoflow {

/// A prompt as text or as token ids.
using Prompt = std::variant<std::string, std::vector<int32_t>>;

/// What bounds a body whatever the model is: keeps one request from taking the process's memory.
struct RequestLimits {
  int64_t max_prompts = 1024;  ///< in one completion body's list
  int64_t max_choices = 128;   ///< n
  int64_t max_stop_strings = 64;
  /// Fields that no request has are named in OpenAiRequest::unknown_fields instead of refused.
  bool allow_unknown_fields = false;
};

struct OpenAiRequest {
  Endpoint endpoint = Endpoint::kCompletions;
  std::string model;            ///< "" when absent
  std::vector<Prompt> prompts;  ///< completions only; at least one

  Json messages;  ///< chat only: a non-empty array, checked by the template
  Json documents;
  ToolFields tools;      ///< chat only
  Json template_kwargs;  ///< chat_template_kwargs: object or null
  bool add_generation_prompt = true;
  bool continue_final_message = false;
  bool parse_special_in_messages = false;  ///< our own: see ChatRenderOptions

  SamplingParams sampling;
  std::optional<GrammarSource> structure;  ///< what the output must be
  /// Nobody asked for sampling.max_tokens: where the context leaves less, it ends the output.
  bool max_tokens_is_default = false;
  int64_t n = 1;
  std::vector<std::string> stop;
  bool include_stop_str_in_output = false;
  bool skip_special_tokens = true;
  std::optional<bool> add_special_tokens;  ///< completions: default true; chat: default false
  bool echo = false;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage_stats = false;
  bool return_token_ids = false;
  bool return_tokens_as_token_ids = false;
  std::optional<int64_t> truncate_prompt_tokens;
  std::vector<std::string> unknown_fields;  ///< only with RequestLimits::allow_unknown_fields
};

/// Values that a checkpoint's generation_config.json recommends, for fields that a body leaves out.
struct SamplingDefaults {
  double temperature = 1;
  double top_p = 1;
  int64_t top_k = 0;
  double min_p = 0;
  double repetition_penalty = 1;
  /// max_tokens of completions without one (OpenAI's and vLLM's default of that endpoint is 16);
  /// chat without one runs to the end of the context.
  int64_t completion_max_tokens = 16;
};

/// Parses a body. Errors name the field. An unknown field is refused: it may be a typing error, and
/// the answer would be to another question than was asked. Known, checked by nobody and without
/// effect, because they concern OpenAI's service: user, metadata, store, service_tier,
/// safety_identifier, prompt_cache_key, prompt_cache_retention, request_id.
Result<OpenAiRequest> parse_openai_request(Endpoint endpoint, const Json& body,
                                           const SamplingDefaults& defaults = {},
                                           const RequestLimits& limits = {});

/// Names of all fields that a body of `endpoint` may have; they live as long as the program.
std::set<std::string_view> known_fields(Endpoint endpoint);

}  // namespace nanoflow
