// GET /openapi.json: what the server takes and answers, for people, code generators and tests that
// send what they find in it. The document itself is openapi.json.
#pragma once

#include <string>
#include <string_view>

namespace nanoflow {

/// The OpenAPI 3.1 document of this version of the program, as JSON.
std::string openapi_document(std::string_view version);

}  // namespace nanoflow
