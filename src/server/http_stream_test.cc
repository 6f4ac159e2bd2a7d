// Streams, clients that go or do not read, and the server's end.
#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <vector>

#include "base/error.h"
#include "server/http_test_support.h"

namespace nanoflow {
namespace {

using namespace std::chrono_literals;

HttpResponse stream_head() {
  HttpResponse head;
  head.content_type = "text/event-stream";
  return head;
}

// Keeps what requests a handler got, for tests that answer later or never.
class Held {
 public:
  TestHandler::Handle handler() {
    return [this](const HttpRequest&, std::shared_ptr<HttpExchange> exchange) {
      exchange->on_closed([this] { ++closed; });
      const std::lock_guard lock(mutex_);
      exchanges_.push_back(std::move(exchange));
    };
  }
  size_t count() {
    const std::lock_guard lock(mutex_);
    return exchanges_.size();
  }
  std::vector<std::shared_ptr<HttpExchange>> take() {
    const std::lock_guard lock(mutex_);
    return std::move(exchanges_);
  }
  std::shared_ptr<HttpExchange> take_one() {
    EXPECT_TRUE(eventually([&] { return count() > 0; }));
    return take().front();
  }

  std::atomic<int> closed{0};

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<HttpExchange>> exchanges_;
};

TEST(HttpStream, WhatIsWrittenTogetherIsOneChunk) {
  TestServer server([](const HttpRequest&, const std::shared_ptr<HttpExchange>& exchange) {
    HttpResponse head = stream_head();
    head.body = "a";
    exchange->begin_stream(std::move(head));
    exchange->write("b");
    exchange->write("");
    exchange->thread().post_after(5ms, [exchange] {
      exchange->write(std::string(300, 'c'));
      exchange->end_stream();
    });
  });
  TestClient client = server.client();
  for (int i = 0; i < 2; ++i) {
    const std::string answer = client.ask(get("/"));
    EXPECT_NE(answer.find("Transfer-Encoding: chunked\r\n"), std::string::npos) << answer;
    EXPECT_EQ(client.read_until("\r\n0\r\n\r\n"),
              "2\r\nab\r\n12c\r\n" + std::string(300, 'c') + "\r\n0\r\n\r\n");
  }
}

TEST(HttpStream, Http10AndHead) {
  TestServer server([](const HttpRequest&, const std::shared_ptr<HttpExchange>& exchange) {
    exchange->begin_stream(stream_head());
    exchange->write("to the end");
    exchange->end_stream();
  });
  TestClient old = server.client();
  old.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  const std::string answer = old.read_to_end();
  EXPECT_NE(answer.find("Connection: close\r\n"), std::string::npos);
  EXPECT_TRUE(answer.ends_with("\r\n\r\nto the end"));
  TestClient client = server.client();
  client.ask("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(client.ask("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n"));
}

TEST(HttpStream, AnAbandonedAnswerIs500OrCut) {
  TestServer server([](const HttpRequest& request, std::shared_ptr<HttpExchange> exchange) {
    if (request.path == "/stream") exchange->begin_stream(stream_head());
    if (request.path == "/thread") std::thread([gone = std::move(exchange)] {}).detach();
  });
  TestClient client = server.client();
  EXPECT_TRUE(client.ask(get("/")).starts_with("HTTP/1.1 500 "));
  EXPECT_TRUE(client.ask(get("/thread")).starts_with("HTTP/1.1 500 "));
  client.send(get("/stream"));
  EXPECT_FALSE(client.read_to_end().ends_with("0\r\n\r\n"));
}

TEST(HttpStream, AClientThatGoesIsNoticedAtEachStage) {
  Held held;
  TestServer server(held.handler());
  server.client().close();
  server.client().send("GET /ha");
  server.client().send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf");
  EXPECT_TRUE(eventually([&] { return server->stats().accepted == 3; }));
  EXPECT_TRUE(eventually([&] { return server->stats().open == 0; }));
  EXPECT_EQ(held.count(), 0U);

  TestClient waiting = server.client();
  waiting.send(get("/"));
  const auto unanswered = held.take_one();
  waiting.close();
  EXPECT_TRUE(eventually([&] { return held.closed == 1; }));

  TestClient half = server.client();
  half.send(get("/") + get("/pipelined"));
  const auto streaming = held.take_one();
  streaming->thread().post([&] { streaming->begin_stream(stream_head()); });
  half.read_until("\r\n\r\n");
  half.shutdown_sending();
  EXPECT_TRUE(eventually([&] { return held.closed == 2; }));

  // Answers to those who have gone go nowhere; who asks too late is still told.
  std::atomic<int> told{0};
  streaming->thread().post([&] {
    unanswered->respond({});
    streaming->on_closed([&] { ++told; });
    streaming->write("x");
    streaming->end_stream();
    ++told;
  });
  EXPECT_TRUE(eventually([&] { return told == 2; }));
  EXPECT_EQ(server->stats().open, 0);
}

TEST(HttpStream, OnClosedStaysSilentAfterAWholeAnswer) {
  std::atomic<int> closed{0};
  TestServer server([&](const HttpRequest&, const std::shared_ptr<HttpExchange>& exchange) {
    exchange->on_closed([&] { ++closed; });
    exchange->respond({});
  });
  {
    TestClient client = server.client();
    client.ask(get("/"));
  }
  EXPECT_TRUE(eventually([&] { return server->stats().open == 0; }));
  server->stop();
  EXPECT_EQ(closed, 0);
}

// Writes 64 KiB per millisecond until the client is gone.
void flood(const std::shared_ptr<HttpExchange>& exchange, std::atomic<bool>& gone) {
  if (gone) return;
  exchange->write(std::string(65536, 'f'));
  exchange->thread().post_after(1ms, [exchange, &gone] { flood(exchange, gone); });
}

TEST(HttpStream, ASlowReaderIsCutOff) {
  std::atomic<bool> gone{false};
  HttpOptions options;
  options.max_buffered_bytes = 200'000;
  TestServer server(
      [&](const HttpRequest&, const std::shared_ptr<HttpExchange>& exchange) {
        exchange->on_closed([&] { gone = true; });
        exchange->begin_stream(stream_head());
        flood(exchange, gone);
      },
      options);
  TestClient client = server.client(4096);
  client.send(get("/"));
  EXPECT_TRUE(eventually([&] { return gone.load(); }));
  EXPECT_EQ(server->stats().cut_off, 1);
  EXPECT_FALSE(client.read_to_end().ends_with("0\r\n\r\n"));
}

TEST(HttpStream, AStalledReaderIsCutOffASlowOneIsNot) {
  std::atomic<int> closed{0};
  const std::string large(16 << 20, 'L');
  HttpOptions options;
  options.write_timeout = 150ms;
  TestServer server(
      [&](const HttpRequest&, const std::shared_ptr<HttpExchange>& exchange) {
        exchange->on_closed([&] { ++closed; });
        HttpResponse response;
        response.body = large;
        exchange->respond(std::move(response));
      },
      options);
  TestClient stalled = server.client(4096);
  stalled.send(get("/"));
  TestClient slow = server.client();
  slow.send(get("/"));
  const std::string head = slow.read_until("\r\n\r\n");
  std::string body(large.size(), '\0');
  constexpr size_t kParts = 8;  // over 400 ms
  for (size_t i = 0; i < kParts; ++i) {
    const size_t part = body.size() / kParts;
    ::recv(slow.fd(), body.data() + i * part, part, MSG_WAITALL);
    std::this_thread::sleep_for(50ms);
  }
  EXPECT_TRUE(body == large);
  EXPECT_TRUE(eventually([&] { return closed == 1; }));
  EXPECT_EQ(server->stats().cut_off, 1);
}

TEST(HttpStream, ManyStreamsOnSeveralThreads) {
  constexpr int kClients = 64;
  constexpr int kWrites = 50;
  std::mutex mutex;
  std::set<size_t> threads;
  std::function<void(std::shared_ptr<HttpExchange>, int)> write;
  write = [&](const std::shared_ptr<HttpExchange>& exchange, int left) {
    if (left == 0) return exchange->end_stream();
    exchange->write("x");
    exchange->thread().post([&write, exchange, left] { write(exchange, left - 1); });
  };
  HttpOptions options;
  options.num_threads = 3;
  TestServer server(
      [&](const HttpRequest&, const std::shared_ptr<HttpExchange>& exchange) {
        {
          const std::lock_guard lock(mutex);
          threads.insert(exchange->thread().index());
        }
        exchange->begin_stream(stream_head());
        write(exchange, kWrites);
      },
      options);
  std::vector<TestClient> clients;
  clients.reserve(kClients);
  for (int i = 0; i < kClients; ++i) clients.push_back(server.client());
  for (TestClient& client : clients) client.send(get("/"));
  for (TestClient& client : clients) {
    const std::string answer = client.ask("");
    const std::string body = client.read_until("\r\n0\r\n\r\n");
    EXPECT_EQ(std::count(body.begin(), body.end(), 'x'), kWrites) << answer << body;
  }
  EXPECT_EQ(threads.size(), 3U);
}

TEST(HttpLife, DrainingClosesWhatIsIdleAndSaysCloseToTheRest) {
  Held held;
  TestServer server(held.handler());
  TestClient idle = server.client();
  TestClient busy = server.client();
  busy.send(get("/"));
  const auto exchange = held.take_one();
  EXPECT_TRUE(eventually([&] { return server->stats().open == 2; }));
  server->drain();
  EXPECT_TRUE(idle.is_closed_within(5s));
  exchange->thread().post([&] { exchange->respond({}); });
  EXPECT_NE(busy.read_to_end().find("Connection: close\r\n"), std::string::npos);
  TestClient late = server.client();
  late.send(get("/"));
  const auto last = held.take_one();
  last->thread().post([&] { last->respond({}); });
  EXPECT_NE(late.read_to_end().find("Connection: close\r\n"), std::string::npos);
}

TEST(HttpLife, StoppingTellsThoseWhoAnswerAndDropsLaterTasks) {
  Held held;
  auto server = std::make_unique<TestServer>(held.handler());
  TestClient client = server->client();
  client.send(get("/"));
  std::shared_ptr<HttpExchange> exchange = held.take_one();
  auto task = std::make_shared<int>(0);
  exchange->thread().post_after(1h, [task] {});
  (*server)->stop();
  (*server)->stop();
  EXPECT_EQ(held.closed, 1);
  EXPECT_EQ(task.use_count(), 1);
  EXPECT_TRUE(client.is_closed_within(1s));
  exchange->thread().post([task] { FAIL(); });
  EXPECT_EQ(task.use_count(), 1);
  server.reset();
  exchange.reset();  // may outlive the server
}

TEST(HttpLife, StopsQuicklyWithManyConnections) {
  constexpr int kConnections = 2000;
  Held held;
  HttpOptions options;
  options.num_threads = 2;
  TestServer server(held.handler(), options);
  std::vector<TestClient> clients;
  clients.reserve(kConnections);
  for (int i = 0; i < kConnections; ++i) {
    clients.push_back(server.client());
    if (i % 2 == 0) clients.back().send(get("/"));
  }
  EXPECT_TRUE(eventually([&] { return held.count() == kConnections / 2; }));
  EXPECT_TRUE(eventually([&] { return server->stats().open == kConnections; }));
  const auto begin = std::chrono::steady_clock::now();
  server->stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s);
  EXPECT_EQ(held.closed, kConnections / 2);
  EXPECT_EQ(server->stats().open, 0);
}

TEST(HttpLife, WhatCannotBeListenedOnSaysWhy) {
  TestServer server;
  Logger logger(LogLevel::kOff);
  TestHandler handler(echo);
  const auto message = [&](const std::string& host, uint16_t port) -> std::string {
    try {
      HttpOptions options;
      options.host = host;
      options.port = port;
      const HttpServer second(options, handler, logger);
      return "no error";
    } catch (const EnvironmentError& error) {
      return error.what();
    }
  };
  const std::string in_use = message("127.0.0.1", server->port());
  EXPECT_NE(in_use.find("in use"), std::string::npos) << in_use;
  EXPECT_NE(in_use.find(std::to_string(server->port())), std::string::npos) << in_use;
  EXPECT_NE(message("192.0.2.1", 0).find("does not have that address"), std::string::npos);
  EXPECT_NE(message("no.such.host.invalid", 0).find("no.such.host.invalid"), std::string::npos);
  EXPECT_EQ(message("localhost", 0), "no error");
}

}  // namespace
}  // namespace nanoflow
