// Requests and answers, streams, disconnects, and the server's life. Limits and abuse are in
// http_limits_test.cc, TLS in http_tls_test.cc.
#include "server/http.h"

#include <atomic>

#include "server/http_test_support.h"

namespace nanoflow {
namespace {

using namespace std::chrono_literals;

bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST(Http, AnswersAndKeepsTheConnection) {
  TestServer server;
  TestClient client = server.client();
  for (int i = 0; i < 3; ++i) {
    const std::string answer = client.ask(get("/a%20b?x=%20y"));
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\nServer: nanoflow\r\nDate: ")) << answer;
    EXPECT_TRUE(answer.ends_with("GET /a b x=%20y []")) << answer;
    EXPECT_TRUE(has(answer, "Content-Type: application/json\r\n"));
    EXPECT_FALSE(has(answer, "Connection:"));
  }
  EXPECT_EQ(server->stats().accepted, 1);
  EXPECT_EQ(server->stats().open, 1);
  client.close();
  EXPECT_TRUE(eventually([&] { return server->stats().open == 0; }));
}

TEST(Http, ReadsBodiesByLengthAndByChunks) {
  TestServer server;
  TestClient client = server.client();
  EXPECT_TRUE(client.ask(post("/", "hello")).ends_with("[hello]"));
  EXPECT_TRUE(client.ask(post("/", "")).ends_with("[]"));
  EXPECT_TRUE(client
                  .ask("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                       "3;name=value\r\nabc\r\n0A\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n")
                  .ends_with("[abc0123456789]"));
  const std::string large(3'000'000, 'q');
  EXPECT_TRUE(client.ask(post("/", large)).ends_with("[" + large + "]"));
}

TEST(Http, RequestsMayComeByteByByte) {
  TestServer server;
  TestClient client = server.client();
  const std::string request =
      "\r\n" + post("/p", "body") +
      "POST /q HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
  for (const char c : request) {
    ASSERT_TRUE(client.send({&c, 1}));
    std::this_thread::sleep_for(100us);
  }
  EXPECT_TRUE(client.read_answer().ends_with("POST /p  [body]"));
  EXPECT_TRUE(client.read_answer().ends_with("POST /q  [hi]"));
}

TEST(Http, PipelinedRequestsAreAnsweredInOrder) {
  std::atomic<int> under_way{0};
  std::atomic<int> most_under_way{0};
  TestServer server([&](const HttpRequest& request, const std::shared_ptr<HttpExchange>& exchange) {
    most_under_way = std::max(most_under_way.load(), ++under_way);
    exchange->thread().post_after(1ms, [&under_way, path = request.path, exchange] {
      --under_way;
      HttpResponse response;
      response.body = path;
      exchange->respond(response);
    });
  });
  TestClient client = server.client();
  std::string all;
  for (int i = 0; i < 100; ++i) all += get("/" + std::to_string(i));
  client.send(all);
  for (int i = 0; i < 100; ++i)
    EXPECT_TRUE(client.read_answer().ends_with("\r\n\r\n/" + std::to_string(i)));
  EXPECT_EQ(most_under_way, 1);
}

TEST(Http, ManyPipelinedRequestsNeedNoStackAndStopTheReading) {
  TestServer server;
  TestClient client = server.client();
  std::thread sender([&] {
    std::string all;
    for (int i = 0; i < 5'000; ++i) all += get("/");
    client.send(all);
  });
  int answers = 0;
  while (answers < 5'000 && client.read_answer().ends_with("GET /  []")) ++answers;
  sender.join();
  EXPECT_EQ(answers, 5'000);
}

TEST(Http, Http10ClosesUnlessAskedToStay) {
  TestServer server;
  TestClient client = server.client();
  client.send("GET / HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(has(client.read_to_end(), "Connection: close\r\n"));
  TestClient staying = server.client();
  EXPECT_TRUE(has(staying.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
                  "Connection: keep-alive\r\n"));
  EXPECT_TRUE(staying.ask("GET /2 HTTP/1.0\r\n\r\n").ends_with("GET /2  []"));
  TestClient closing = server.client();
  closing.send(get("/", "Connection: close\r\n"));
  EXPECT_TRUE(has(closing.read_to_end(), "Connection: close\r\n"));
}

TEST(Http, HeadHasNoBodyAndOptionsReachTheHandler) {
  TestServer server;
  TestClient client = server.client();
  client.send("HEAD /h HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(has(client.read_until("\r\n\r\n"), "Content-Length: 11\r\n"));
  EXPECT_TRUE(client.ask("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").ends_with("OPTIONS *  []"));
  EXPECT_TRUE(
      client.ask("GET http://x:80/abs?q HTTP/1.1\r\nHost: x\r\n\r\n").ends_with("GET /abs q []"));
}

TEST(Http, ContinueIsSentBeforeTheBody) {
  TestServer server;
  TestClient client = server.client();
  client.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_TRUE(client.ask("ok").ends_with("[ok]"));
  EXPECT_TRUE(client.ask(get("/", "Expect: coffee\r\n")).starts_with("HTTP/1.1 417 "));
}

TEST(Http, HeadersOfBothSides) {
  TestServer server([](const HttpRequest& request, const std::shared_ptr<HttpExchange>& exchange) {
    HttpResponse response;
    response.status = 429;
    response.content_type = "text/plain";
    response.headers = {{"Retry-After", "7"}};
    response.body = std::string(request.header("x-a")) + std::string(request.header("none"));
    EXPECT_TRUE(request.peer.starts_with("127.0.0.1:")) << request.peer;
    exchange->respond(response);
  });
  const std::string answer = server.client().ask(get("/", "X-A: one\r\nX-a: two\r\n"));
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n"));
  EXPECT_TRUE(has(answer, "Content-Type: text/plain\r\nRetry-After: 7\r\n"));
  EXPECT_TRUE(answer.ends_with("\r\n\r\none"));
}

TEST(Http, AHeadThatWouldSplitTheAnswerIsNotSent) {
  TestServer server([](const HttpRequest& request, const std::shared_ptr<HttpExchange>& exchange) {
    HttpResponse response;
    response.headers = {{"X-Id", "a\r\nSet-Cookie: evil"}};
    if (request.path == "/name") response.headers = {{"X Id:", "a"}};
    if (request.path == "/frame") response.headers = {{"content-length", "0"}};
    if (request.path != "/stream") return exchange->respond(response);
    exchange->begin_stream(response);
    exchange->write("not sent");
    exchange->end_stream();
  });
  TestClient client = server.client();
  for (const char* path : {"/value", "/name", "/frame", "/stream", "/value"}) {
    const std::string answer = client.ask(get(path));
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 500 ")) << answer;
    EXPECT_FALSE(has(answer, "evil"));
  }
}

}  // namespace
}  // namespace nanoflow
