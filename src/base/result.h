// Result<T>: what a function returns when a *request* (user input) can make it fail.
// Environment failures (files, devices) throw base/error.h types; our own bugs hit NANO_CHECK.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <tl/expected.hpp>

namespace nanoflow {

/// Why a request failed. Each value maps to one HTTP status (api/ owns the mapping).
enum class ErrorCode : uint8_t {
  kInvalidArgument,    ///< a field has a bad value or type (400)
  kUnsupported,        ///< well-formed, but this build or model cannot do it (400)
  kNotFound,           ///< names something that does not exist (404)
  kContextTooLong,     ///< prompt + output do not fit the model's context (400)
  kResourceExhausted,  ///< queue or limit reached, try again later (503)
  kUnavailable,        ///< not now: shutting down (503)
  kDeadlineExceeded,   ///< took longer than it may (504)
  kCancelled,          ///< the client went away or asked to stop
  kInternal,           ///< the engine failed while serving it (500)
};

/// Stable lower-case name of `code`, for example "invalid_argument".
std::string_view error_code_name(ErrorCode code);

/// One failure, phrased for the person who sent the request. `param` names the offending field, or
/// "".
struct Error {
  ErrorCode code = ErrorCode::kInvalidArgument;
  std::string message;
  std::string param;
};

template <typename T>
using Result = tl::expected<T, Error>;

/// `return fail(ErrorCode::kNotFound, "no model named 'x'", "model");`
[[nodiscard]] inline tl::unexpected<Error> fail(ErrorCode code, std::string message,
                                                std::string param = {}) {
  return tl::unexpected<Error>(Error{code, std::move(message), std::move(param)});
}

}  // namespace nanoflow
