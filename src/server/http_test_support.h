// A server in this process, a handler that is a lambda, and a client that sends bytes as they are.
#pragma once

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "base/log.h"
#include "server/http.h"

namespace nanoflow {

class TestHandler final : public HttpHandler {
 public:
  using Handle = std::function<void(HttpRequest, std::shared_ptr<HttpExchange>)>;
  explicit TestHandler(Handle handle) : handle_(std::move(handle)) {}

  void handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    handle_(std::move(request), std::move(exchange));
  }
  HttpResponse refusal(int status, const std::string& message) override {
    HttpResponse response;
    response.status = status;
    response.body = "{\"error\":\"" + message + "\"}";
    return response;
  }

 private:
  Handle handle_;
};

/// Answers with method, path, query and body.
inline void echo(const HttpRequest& request, const std::shared_ptr<HttpExchange>& exchange) {
  HttpResponse response;
  response.body =
      request.method + " " + request.path + " " + request.query + " [" + request.body + "]";
  exchange->respond(std::move(response));
}

/// Blocking, with a limit of 5 s for whatever is waited for.
class TestClient {
 public:
  explicit TestClient(uint16_t port, int receive_buffer = 0) {
    fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
    if (receive_buffer > 0)
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    const timeval limit{5, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(port);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
  }
  ~TestClient() { close(); }
  TestClient(TestClient&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  TestClient& operator=(TestClient&&) = delete;

  /// False when the server has closed.
  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  /// Everything up to and with `mark`, or up to the connection's end.
  std::string read_until(std::string_view mark) const {
    std::string got;
    while (!got.ends_with(mark)) {
      char c = 0;
      if (::recv(fd_, &c, 1, 0) != 1) break;
      got += c;
    }
    return got;
  }
  std::string read_to_end() const {
    std::string got(65536, '\0');
    std::string all;
    ssize_t size = 0;
    while ((size = ::recv(fd_, got.data(), got.size(), 0)) > 0)
      all.append(got.data(), static_cast<size_t>(size));
    return all;
  }
  /// One answer with Content-Length: head and body.
  std::string read_answer() const {
    std::string answer = read_until("\r\n\r\n");
    const size_t at = answer.find("Content-Length: ");
    if (at == std::string::npos) return answer;
    std::string body(std::stoul(answer.substr(at + 16)), '\0');
    if (!body.empty()) ::recv(fd_, body.data(), body.size(), MSG_WAITALL);
    return answer + body;
  }
  std::string ask(std::string_view request) const {
    send(request);
    return read_answer();
  }
  /// Whether the server closes (or resets) within `limit`, with nothing more to read.
  bool is_closed_within(std::chrono::milliseconds limit) const {
    pollfd waiting{fd_, POLLIN, 0};
    char c = 0;
    return ::poll(&waiting, 1, static_cast<int>(limit.count())) > 0 && ::recv(fd_, &c, 1, 0) <= 0;
  }
  void shutdown_sending() const { ::shutdown(fd_, SHUT_WR); }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_ = -1;
};

/// A running server on a free port of 127.0.0.1.
class TestServer {
 public:
  explicit TestServer(TestHandler::Handle handle = echo, HttpOptions options = {})
      : handler_(std::move(handle)) {
    options.host = "127.0.0.1";
    options.port = 0;
    server_ = std::make_unique<HttpServer>(options, handler_, logger_);
    server_->start();
  }

  [[nodiscard]] TestClient client(int receive_buffer = 0) const {
    return TestClient(server_->port(), receive_buffer);
  }
  HttpServer& operator*() { return *server_; }
  HttpServer* operator->() { return server_.get(); }

 private:
  Logger logger_{LogLevel::kOff};
  TestHandler handler_;
  std::unique_ptr<HttpServer> server_;
};

/// Whether `condition` becomes true within 5 s.
inline bool eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

inline std::string get(const std::string& path, const std::string& headers = "") {
  return "GET " + path + " HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n";
}

inline std::string post(const std::string& path, const std::string& body) {
  return "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}

}  // namespace nanoflow
