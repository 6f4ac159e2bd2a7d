// The document and the parser know the same fields.
#include "server/openapi.h"

#include <set>
#include <stdexcept>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "api/openai_request.h"
#include "base/json.h"

namespace nanoflow {
namespace {

Json document() {
  Result<Json> parsed = parse_json(openapi_document("1.2.3"));
  EXPECT_TRUE(parsed.has_value());
  return *parsed;
}

const Json& at(const Json& root, std::initializer_list<std::string_view> path) {
  const Json* value = &root;
  for (const std::string_view key : path) {
    value = value->find(key);
    if (value == nullptr) throw std::out_of_range(std::string(key));
  }
  return *value;
}

std::set<std::string_view> fields(const Json& root, std::string_view schema) {
  std::set<std::string_view> names;
  for (const auto& [name, value] :
       at(root, {"components", "schemas", schema, "properties"}).as_object())
    names.insert(name);
  return names;
}

TEST(OpenApi, SaysTheVersionAndRefersToWhatItHas) {
  const Json root = document();
  EXPECT_EQ(at(root, {"info", "version"}).as_string(), "1.2.3");
  const std::string text = root.dump();
  constexpr std::string_view kRef = "\"$ref\":\"#/components/";
  size_t found = 0;
  for (size_t i = text.find(kRef); i != std::string::npos; i = text.find(kRef, i + 1), ++found) {
    const size_t begin = i + kRef.size();
    const std::string path = text.substr(begin, text.find('"', begin) - begin);
    const size_t slash = path.find('/');
    EXPECT_NO_THROW(at(root, {"components", path.substr(0, slash), path.substr(slash + 1)}))
        << path;
  }
  EXPECT_GT(found, 20u);
}

TEST(OpenApi, HasTheFieldsThatTheParserKnowsAndNoOthers) {
  const Json root = document();
  EXPECT_EQ(fields(root, "CompletionRequest"), known_fields(Endpoint::kCompletions));
  EXPECT_EQ(fields(root, "ChatCompletionRequest"), known_fields(Endpoint::kChatCompletions));
}

}  // namespace
}  // namespace nanoflow
