// Whether a request can be served at all.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "engine/engine.h"
#include "engine/request.h"

namespace nanoflow {

/// Checks ids, parameters and lengths. Returns the output tokens that the request may have at most:
/// max_tokens, or what the context leaves. Fails with kInvalidArgument naming the field, or
/// kContextTooLong naming both numbers.
Result<int64_t> check_request(const Request& request, const EngineLimits& limits);

}  // namespace nanoflow
