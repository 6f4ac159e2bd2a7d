#include "server/answers.h"

#include <utility>

#include "api/completion.h"

namespace nanoflow {
namespace {

std::string_view error_type(int status) {
  switch (status) {
    case 400: return "BadRequestError";
    case 401: return "AuthenticationError";
    case 404: return "NotFoundError";
    case 405: return "MethodNotAllowedError";
    case 408: return "RequestTimeoutError";
    case 413: return "PayloadTooLargeError";
    case 429: return "RateLimitError";
    case 431: return "HeadersTooLargeError";
    case 503: return "ServiceUnavailableError";
    case 504: return "TimeoutError";
    default: return status < 500 ? "BadRequestError" : "InternalServerError";
  }
}

// Seconds after which a client may try again: about as long as a queue that is full stays full.
constexpr const char* kRetryAfter = "1";

HttpResponse with_retry(HttpResponse answer) {
  if (answer.status == 429 || answer.status == 503)
    answer.headers.push_back({"Retry-After", kRetryAfter});
  return answer;
}

}  // namespace

HttpResponse json_answer(const Json& body, int status) {
  return {.status = status, .body = body.dump()};
}

HttpResponse error_answer(int status, std::string_view message, std::string_view param, Json code) {
  Json error = Json::object({{"message", message},
                             {"type", error_type(status)},
                             {"param", param.empty() ? Json(nullptr) : Json(param)},
                             {"code", code.is_null() ? Json(status) : std::move(code)}});
  return with_retry(json_answer(Json::object({{"error", std::move(error)}}), status));
}

HttpResponse error_answer(const Error& error) {
  int status = 500;
  const Json body = error_body(error, &status);
  return with_retry(json_answer(body, status));
}

}  // namespace nanoflow
