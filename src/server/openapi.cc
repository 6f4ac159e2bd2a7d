#include "server/openapi.h"

#include "base/check.h"
#include "base/json.h"
#include "openapi_document.h"

namespace nanoflow {

std::string openapi_document(std::string_view version) {
  Result<Json> document = parse_json(embedded::openapi_json);
  NANO_CHECK(document.has_value(), "openapi.json: {}", document.error().message);
  Json info = *document->find("info");
  info.set("version", version);
  document->set("info", std::move(info));
  return document->dump();
}

}  // namespace nanoflow
