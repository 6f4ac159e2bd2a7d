// What can be said without a server; tests/e2e/hub has the rest.
#include "formats/hub_http.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

TEST(HubHttp, OriginsAreSchemeHostAndPort) {
  EXPECT_TRUE(same_origin("https://hub.org/a", "https://HUB.org:443/b?c"));
  EXPECT_TRUE(same_origin("http://hub.org", "http://hub.org:80/"));
  EXPECT_FALSE(same_origin("https://hub.org", "http://hub.org"));
  EXPECT_FALSE(same_origin("https://hub.org", "https://hub.org:444"));
  EXPECT_FALSE(same_origin("https://hub.org", "https://hub.org.evil.com"));
  EXPECT_FALSE(same_origin("https://hub.org", "https://hub.org@evil.com"));
  EXPECT_FALSE(same_origin("https://hub.org", "https://cdn.hub.org"));
  EXPECT_FALSE(same_origin("nonsense::", "nonsense::"));
}

TEST(HubHttp, PathsAreEncoded) {
  EXPECT_EQ(url_encode_path("a b/c%d#e?f+\xc3\xa9.json"), "a%20b/c%25d%23e%3Ff%2B%C3%A9.json");
  EXPECT_EQ(url_encode_path("refs/pr/1", true), "refs%2Fpr%2F1");
}

TEST(HubHttp, BackoffCountsAndIsReset) {
  Backoff backoff(3, 0, {});
  EXPECT_TRUE(backoff.wait(0));
  EXPECT_TRUE(backoff.wait(0));
  EXPECT_FALSE(backoff.wait(0));
  backoff.reset();
  EXPECT_TRUE(backoff.wait(0));
  EXPECT_FALSE(backoff.wait(301)) << "nobody waits for longer than five minutes";
}

TEST(HubHttp, BackoffCanBeCancelled) {
  Backoff backoff(3, 60'000, [] { return true; });
  EXPECT_FALSE(backoff.wait(0));
}

TEST(HubHttp, WhatMayHelpToTryAgain) {
  for (const int status : {408, 429, 500, 502, 503, 504})
    EXPECT_TRUE(HubResponse{.status = status}.retryable()) << status;
  for (const int status : {200, 206, 302, 400, 401, 403, 404, 416})
    EXPECT_FALSE(HubResponse{.status = status}.retryable()) << status;
  EXPECT_TRUE(HubResponse{.failure = HttpFailure::kConnect}.retryable());
  EXPECT_FALSE((HubResponse{.failure = HttpFailure::kTls, .status = 503}.retryable()));
}

TEST(HubHttp, NobodyListens) {
  HttpSession session({.origin = "http://127.0.0.1:1"});
  HubRequest request;
  request.url = "http://127.0.0.1:1/";
  const HubResponse response = session.perform(request);
  EXPECT_EQ(response.failure, HttpFailure::kConnect);
  EXPECT_FALSE(response.reason.empty());
  request.url = "file:///etc/passwd";
  EXPECT_EQ(session.perform(request).failure, HttpFailure::kBadUrl);
}

}  // namespace
}  // namespace nanoflow
