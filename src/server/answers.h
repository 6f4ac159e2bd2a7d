// Answers that every route gives in the same form: JSON, and errors as OpenAI's clients read them.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"
#include "server/http.h"

namespace nanoflow {

HttpResponse json_answer(const Json& body, int status = 200);

/// {"error": {"message", "type", "param", "code"}}, the type that fits the status, and Retry-After
/// where trying again helps (429, 503). `code`: the status unless given.
HttpResponse error_answer(int status, std::string_view message, std::string_view param = {},
                          Json code = {});
/// The same for an error of a request; its code decides the status.
HttpResponse error_answer(const Error& error);

}  // namespace nanoflow
