#include "server/access.h"

#include <set>

#include <gtest/gtest.h>

#include "base/error.h"

namespace nanoflow {
namespace {

HttpRequest with(std::string name, std::string value) {
  HttpRequest request;
  request.headers.push_back({std::move(name), std::move(value)});
  return request;
}

std::string find(const std::vector<HttpHeader>& headers, std::string_view name) {
  for (const HttpHeader& header : headers)
    if (header.name == name) return header.value;
  return "";
}

TEST(ApiKeys, OpenWithoutKeys) {
  const ApiKeys keys({});
  EXPECT_TRUE(keys.open_to_all());
  EXPECT_TRUE(keys.admits({}));
}

TEST(ApiKeys, AdmitsEachKeyAndNothingElse) {
  const ApiKeys keys({"alpha", "beta gamma"});
  EXPECT_FALSE(keys.open_to_all());
  EXPECT_TRUE(keys.admits(with("authorization", "Bearer alpha")));
  EXPECT_TRUE(keys.admits(with("Authorization", "BEARER beta gamma")));
  EXPECT_TRUE(keys.admits(with("X-API-Key", "alpha")));
  for (const char* value : {"", "alpha", "Bearer", "Bearer ", "Bearer alph", "Bearer alphaa",
                            "Bearer  alpha", "Basic alpha"})
    EXPECT_FALSE(keys.admits(with("Authorization", value))) << value;
  EXPECT_FALSE(keys.admits({}));
  EXPECT_THROW(ApiKeys({""}), ConfigError);
}

TEST(Cors, NamesTheOriginThatMayRead) {
  std::vector<HttpHeader> headers;
  Cors({"*"}).add_headers(with("Origin", "http://a"), headers);
  EXPECT_EQ(find(headers, "Access-Control-Allow-Origin"), "*");

  const Cors some({"http://a", "http://b"});
  headers.clear();
  some.add_headers(with("Origin", "http://b"), headers);
  EXPECT_EQ(find(headers, "Access-Control-Allow-Origin"), "http://b");
  EXPECT_EQ(find(headers, "Vary"), "Origin");
  headers.clear();
  some.add_headers(with("Origin", "http://c"), headers);
  some.add_headers({}, headers);
  EXPECT_TRUE(headers.empty());
  EXPECT_NE(
      find(some.preflight(with("Origin", "http://a")).headers, "Access-Control-Allow-Methods"), "");
  EXPECT_TRUE(some.preflight(with("Origin", "http://c")).headers.empty());
}

TEST(RequestNames, KeepsUsableOnesAndMakesOthers) {
  RequestNames names;
  EXPECT_EQ(names.of(with("x-request-id", "abc-1")), "abc-1");
  std::set<std::string> made;
  for (int i = 0; i < 1000; ++i) made.insert(names.next());
  EXPECT_EQ(made.size(), 1000U);
  const std::vector<std::string> unusable = {"",     "a b",        "a\"b", "a\\b",
                                             "\x7f", "gr\xc3\xbc", "a\tb", std::string(129, 'a')};
  for (const std::string& value : unusable)
    EXPECT_EQ(names.of(with("X-Request-Id", value)).size(), 32U) << value;
}

}  // namespace
}  // namespace nanoflow
