// Limits, timeouts and abuse: every one ends in an answer or a closed connection, never in harm.
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <vector>

#include "server/http_test_support.h"

namespace nanoflow {
namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;

HttpOptions small_limits() {
  HttpOptions options;
  options.max_header_bytes = 1000;
  options.max_body_bytes = 2000;
  return options;
}

// The whole answer to bytes that end the connection.
std::string refused(const TestServer& server, std::string_view bytes) {
  TestClient client = server.client();
  client.send(bytes);
  return client.read_to_end();
}

TEST(HttpLimits, WhatIsMalformedIsRefusedAndClosed) {
  TestServer server(echo, small_limits());
  const std::string host = "Host: x\r\n";
  const std::string chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"400", "hello world\r\n\r\n"},
      {"400", "GET / HTTP/1.1\r\nHost: x\r\nA: \0b\r\n\r\n"s},
      {"400", "GE\0T / HTTP/1.1\r\nHost: x\r\n\r\n"s},
      {"400", "\x16\x03\x01\x02\x01\x01\x01\xfc\x03\x03 a TLS hello\r\n\r\n"},
      {"400", "GET / HTTP/1.1\r\n\r\n"},
      {"400", "GET / HTTP/1.1\r\n" + host + host + "\r\n"},
      {"400", "GET /%zz HTTP/1.1\r\n" + host + "\r\n"},
      {"400", "GET /%00 HTTP/1.1\r\n" + host + "\r\n"},
      {"400", "GET /%4 HTTP/1.1\r\n" + host + "\r\n"},
      {"400", "CONNECT a:80 HTTP/1.1\r\n" + host + "\r\n"},
      {"400", "GET / HTTP/1.1\r\nHost : x\r\n\r\n"},
      {"505", "GET / HTTP/2.0\r\n" + host + "\r\n"},
      {"400", "POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n"},
      {"400", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1x\r\n\r\n"},
      {"400", "POST / HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999999\r\n\r\n"},
      {"400", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n"},
      {"400", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n"},
      {"400",
       "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"},
      {"400",
       "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n"},
      {"400", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"},
      {"501", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip\r\n\r\n"},
      {"501", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n"},
      {"400", chunked + "zz\r\n"},
      {"400", chunked + "-1\r\n"},
      {"400", chunked + "2\r\nabc\r\n0\r\n\r\n"},
      {"400", chunked + "ffffffffffffffffff\r\n"},
      {"413", chunked + "7d1\r\n"},
      {"413",
       chunked + "3e8\r\n" + std::string(1000, 'x') + "\r\n3e9\r\n" + std::string(1001, 'x')},
      {"413", "POST / HTTP/1.1\r\n" + host + "Content-Length: 2001\r\n\r\n"},
      {"431", "GET /" + std::string(1000, 'x')},
      {"431", "GET / HTTP/1.1\r\n" + host + "A: " + std::string(1000, 'x')},
      {"4", chunked + "1;" + std::string(3000, 'x')},
      {"4", chunked + "0\r\nT: " + std::string(3000, 'x')},
  };
  for (const auto& [status, bytes] : cases) {
    const std::string answer = refused(server, bytes);
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 " + status)) << bytes << "\n-> " << answer;
    EXPECT_NE(answer.find("Connection: close\r\n"), std::string::npos) << bytes;
    EXPECT_NE(answer.find("\r\n\r\n{\"error\":"), std::string::npos) << bytes;
  }
  EXPECT_EQ(server->stats().malformed, static_cast<int64_t>(cases.size()));
  EXPECT_TRUE(eventually([&] { return server->stats().open == 0; }));
}

TEST(HttpLimits, WhatIsJustAllowedIsServed) {
  TestServer server(echo, small_limits());
  TestClient client = server.client();
  EXPECT_TRUE(client.ask(post("/", std::string(2000, 'x'))).starts_with("HTTP/1.1 200 "));
  EXPECT_TRUE(
      client.ask(get("/", "A: " + std::string(900, 'x') + "\r\n")).starts_with("HTTP/1.1 200 "));
  EXPECT_TRUE(client.ask("GET / HTTP/1.1\r\nhOsT:x\r\n\r\n").starts_with("HTTP/1.1 200 "));
}

TEST(HttpLimits, TheRefusalOfALargeBodyArrivesWhileItIsBeingSent) {
  TestServer server(echo, small_limits());
  TestClient client = server.client();
  EXPECT_TRUE(client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"));
  const std::string piece(1'000'000, 'x');
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(client.send(piece)) << i;
  EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 413 "));
}

TEST(HttpLimits, SlowRequestsAreRefused) {
  HttpOptions options;
  options.header_timeout = 60ms;
  options.body_timeout = 60ms;
  options.idle_timeout = 10s;
  TestServer server(echo, options);
  // Each byte comes in time, the whole does not.
  const auto drip = [&](TestClient& client, std::string_view start) {
    client.send(start);
    while (!client.is_closed_within(10ms) && client.send("x")) {
    }
  };
  TestClient silent = server.client();
  TestClient head = server.client();
  EXPECT_TRUE(head.ask(get("/")).starts_with("HTTP/1.1 200 "));
  std::this_thread::sleep_for(80ms);  // idle is not slow
  head.send("GET /");
  TestClient body = server.client();
  body.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf");
  for (TestClient* client : {&silent, &head, &body})
    EXPECT_TRUE(client->read_to_end().starts_with("HTTP/1.1 408 "));
  TestClient dripping = server.client();
  drip(dripping, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n");
  EXPECT_EQ(server->stats().malformed, 4);
}

TEST(HttpLimits, IdleConnectionsAreClosedInSilence) {
  HttpOptions options;
  options.idle_timeout = 40ms;
  TestServer server(echo, options);
  TestClient client = server.client();
  client.ask(get("/"));
  EXPECT_EQ(client.read_to_end(), "");
  EXPECT_EQ(server->stats().malformed, 0);
}

TEST(HttpLimits, TooManyConnectionsAreToldSo) {
  HttpOptions options;
  options.max_connections = 2;
  TestServer server(echo, options);
  TestClient first = server.client();
  TestClient second = server.client();
  EXPECT_TRUE(eventually([&] { return server->stats().open == 2; }));
  TestClient third = server.client();
  third.send(get("/"));
  EXPECT_TRUE(third.read_to_end().starts_with("HTTP/1.1 503 "));
  EXPECT_EQ(server->stats().refused, 1);
  EXPECT_TRUE(second.ask(get("/")).starts_with("HTTP/1.1 200 "));
  first.close();
  EXPECT_TRUE(eventually([&] { return server->stats().open == 1; }));
  EXPECT_TRUE(server.client().ask(get("/")).starts_with("HTTP/1.1 200 "));
}

TEST(HttpLimits, WithoutFileDescriptorsClientsWait) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the check of virtual calls opens a pipe to see whether memory can be read";
#endif
  TestServer server;
  TestClient waiting = server.client();
  EXPECT_TRUE(waiting.ask(get("/")).starts_with("HTTP/1.1 200 "));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const int last = ::dup(waiting.fd());
  rlimit none = before;
  none.rlim_cur = static_cast<rlim_t>(last) + 2;  // one more for the client's own socket
  ::close(last);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  std::vector<int> filled;
  TestClient late = server.client();
  for (int fd = 0; (fd = ::dup(waiting.fd())) >= 0;) filled.push_back(fd);
  late.send(get("/late"));
  EXPECT_TRUE(waiting.ask(get("/")).starts_with("HTTP/1.1 200 "));
  for (const int fd : filled) ::close(fd);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(late.read_answer().ends_with("GET /late  []"));
}

}  // namespace
}  // namespace nanoflow
