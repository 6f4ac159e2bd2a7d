// The client against a server of a few lines that behaves as badly as it is told.
#include "client/load_client.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"

namespace nanoflow {
namespace {

constexpr const char* kHead = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

std::string chunk(const std::string& data) {
  char size[16];
  std::snprintf(size, sizeof size, "%zx\r\n", data.size());
  return size + data + "\r\n";
}

std::string token() {
  return chunk("data: {\"choices\":[{\"text\":\"a\"}]}\n\n");
}

const std::string kUsage =
    chunk("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":9}}\n\n");
const std::string kEnd = chunk("data: [DONE]\n\n") + "0\r\n\r\n";

/// Answers the n-th request (over all connections, one at a time) with answers[n], byte by byte if
/// wanted; "" or an answer that does not end closes the connection.
class ScriptedServer {
 public:
  explicit ScriptedServer(std::vector<std::string> answers, bool bytewise = false)
      : answers_(std::move(answers)), bytewise_(bytewise) {
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_, 16), 0);
    EXPECT_EQ(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { run(); });
  }
  ~ScriptedServer() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
  }

  [[nodiscard]] LoadTarget target() const {
    return parse_target("http://127.0.0.1:" + std::to_string(port_), "--base-url");
  }
  [[nodiscard]] int connections() const { return connections_; }

 private:
  void run() {
    size_t next = 0;
    while (next < answers_.size()) {
      const int fd = ::accept(listener_, nullptr, nullptr);
      if (fd < 0) return;
      ++connections_;
      while (next < answers_.size() && read_request(fd)) {
        const std::string& answer = answers_[next++];
        send_all(fd, answer);
        if (!answer.ends_with("0\r\n\r\n")) break;
      }
      ::close(fd);
    }
  }

  static bool read_request(int fd) {
    std::string text;
    char c = 0;
    while (!text.ends_with("\r\n\r\n{}")) {
      if (::recv(fd, &c, 1, 0) <= 0) return false;
      text += c;
    }
    return true;
  }

  void send_all(int fd, const std::string& answer) const {
    const size_t step = bytewise_ ? 1 : answer.size();
    for (size_t at = 0; at < answer.size(); at += step)
      if (::send(fd, answer.data() + at, step, MSG_NOSIGNAL) <= 0) return;
  }

  std::vector<std::string> answers_;
  bool bytewise_;
  int listener_ = -1;
  uint16_t port_ = 0;
  std::atomic<int> connections_ = 0;
  std::thread thread_;
};

LoadResult run(const ScriptedServer& server, size_t count) {
  const std::atomic<bool> interrupted = false;
  int64_t last = 0;
  LoadResult result = run_load(server.target(), std::vector<LoadRequest>(count, {"{}", 3, 0}),
                               {"/v1/completions", 1}, interrupted, [&](int64_t n) { last = n; });
  EXPECT_EQ(last, static_cast<int64_t>(count));
  return result;
}

std::string error_of(const std::string& answer) {
  return run(ScriptedServer({answer}), 1).records.at(0).error;
}

TEST(LoadClient, CountsChunksAndTakesTheServersUsage) {
  for (const bool bytewise : {false, true}) {
    const ScriptedServer server(
        {kHead + token() + token() + kUsage + kEnd, kHead + token() + token() + token() + kEnd},
        bytewise);
    const LoadResult result = run(server, 2);
    ASSERT_EQ(result.records[0].error, "");
    ASSERT_EQ(result.records[1].error, "");
    EXPECT_EQ(result.records[0].http_status, 200);
    EXPECT_EQ(result.records[0].prompt_tokens, 4);
    EXPECT_EQ(result.records[0].outputs(), 9);
    EXPECT_EQ(result.records[0].itls_s.size(), 1u);
    EXPECT_EQ(result.records[1].prompt_tokens, 3) << "no usage: what the client knows";
    EXPECT_EQ(result.records[1].outputs(), 3);
    EXPECT_EQ(result.peak_concurrency, 1);
    EXPECT_EQ(server.connections(), 1) << "kept alive";
    EXPECT_LE(result.records[0].ttft_s, result.records[0].latency_s);
  }
}

TEST(LoadClient, NamesWhatWentWrong) {
  EXPECT_EQ(error_of("HTTP/1.1 503 Busy\r\nContent-Length: 36\r\n\r\n"
                     R"({"error":{"message":"try it later"}})"),
            "HTTP 503: try it later");
  EXPECT_EQ(
      error_of(kHead + token() + chunk("data: {\"error\":{\"message\":\"it broke\"}}\n\n") + kEnd),
      "in the stream: it broke");
  EXPECT_EQ(error_of(kHead + kEnd), "the answer has no tokens");
  EXPECT_NE(error_of(""), "");
  EXPECT_NE(error_of("nonsense\r\n\r\n"), "");
  EXPECT_NE(error_of(kHead + token()), "") << "half an answer";
  EXPECT_NE(error_of(kHead + token() + "zz\r\nno chunk\r\n"), "");
}

TEST(LoadClient, AClosedKeptConnectionIsReplaced) {
  // The second answer would come over the first connection, which the server closes instead.
  const ScriptedServer server({kHead + token() + kEnd, "", kHead + token() + kEnd});
  const LoadResult result = run(server, 2);
  EXPECT_EQ(result.records[0].error, "");
  EXPECT_EQ(result.records[1].error, "");
  EXPECT_EQ(server.connections(), 2);
}

TEST(LoadClient, AnInterruptEndsTheRun) {
  const ScriptedServer server({});
  const std::atomic<bool> interrupted = true;
  const LoadResult result = run_load(server.target(), std::vector<LoadRequest>(2, {"{}", 3, 60}),
                                     {"/", 0}, interrupted, [](int64_t) {});
  EXPECT_FALSE(result.records[0].is_finished);
  EXPECT_LT(result.duration_s, 10);
}

TEST(LoadTarget, UrlsAreReadOrRefused) {
  const LoadTarget target = parse_target("https://[::1]:8443/llm/", "--base-url");
  EXPECT_TRUE(target.is_tls);
  EXPECT_EQ(target.host, "::1");
  EXPECT_EQ(target.port, "8443");
  EXPECT_EQ(target.prefix, "/llm");
  EXPECT_EQ(target.url(), "https://[::1]:8443");
  EXPECT_EQ(parse_target("http://a", "x").port, "80");
  for (const char* bad :
       {"", "a:1", "ftp://a", "http://", "http://:80", "http://a:b", "http://a b"})
    EXPECT_THROW((void)parse_target(bad, "x"), ConfigError) << bad;
}

}  // namespace
}  // namespace nanoflow
