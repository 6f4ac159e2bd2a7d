#include "client/load_client.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>
#include <utility>

#include <fmt/format.h>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/error.h"
#include "client/connection.h"
#include "client/sse_splitter.h"
#include "client/stream_event.h"

namespace nanoflow {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using boost::system::system_error;
using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kInterruptPoll{50};
constexpr size_t kMaxErrorBytes = 4096;  // kept of an answer that is none

double seconds_since(steady_clock::time_point start) {
  return std::chrono::duration<double>(steady_clock::now() - start).count();
}

steady_clock::time_point after(steady_clock::time_point start, double seconds) {
  return start +
         std::chrono::duration_cast<steady_clock::duration>(std::chrono::duration<double>(seconds));
}

/// Throws NetworkError.
Connection::Endpoints resolve(asio::io_context& io, const LoadTarget& target) {
  error_code error;
  auto endpoints = asio::ip::tcp::resolver(io).resolve(target.host, target.port, error);
  if (error)
    throw NetworkError(fmt::format("cannot find {}: {}; check --base-url or --host and --port",
                                   target.host, error.message()));
  return endpoints;
}

/// Null for plain HTTP. Throws NetworkError where the system has no certificates to trust.
std::unique_ptr<asio::ssl::context> make_tls(const LoadTarget& target) {
  if (!target.is_tls) return nullptr;
  auto tls = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_client);
  error_code error;
  tls->set_default_verify_paths(error);
  if (error)
    throw NetworkError("no trusted certificates: install ca-certificates or set SSL_CERT_FILE");
  tls->set_verify_mode(asio::ssl::verify_peer);
  return tls;
}

/// Turns the bytes of one streamed answer into its record.
class StreamSink final : public AnswerSink {
 public:
  StreamSink(RequestRecord& record, LoadResult& result, steady_clock::time_point start)
      : record_(record), result_(result), start_(start) {}

  void on_status(int status) override { record_.http_status = status; }

  bool on_body(std::string_view bytes) override {
    if (record_.http_status != 200) {
      refusal_.append(bytes.substr(0, kMaxErrorBytes - refusal_.size()));
      return true;
    }
    const double now_s = seconds_since(start_);
    const bool fits = splitter_.feed(bytes, [&](std::string_view data) { on_event(data, now_s); });
    if (!fits) record_.error = "a line of the answer does not end";
    return record_.error.empty();
  }

  /// Nothing of an answer has come.
  [[nodiscard]] bool is_untouched() const { return record_.http_status == 0; }

  void finish() {
    record_.is_finished = true;
    if (record_.http_status != 200 && record_.error.empty())
      record_.error = fmt::format("HTTP {}: {}", record_.http_status, error_message(refusal_));
    if (!has_first_ && record_.error.empty()) record_.error = "the answer has no tokens";
  }

 private:
  void on_event(std::string_view data, double now_s) {
    StreamEvent event = read_stream_event(data);
    switch (event.kind) {
      case StreamEvent::Kind::kToken: on_chunk(now_s); break;
      case StreamEvent::Kind::kUsage:
        if (event.prompt_tokens >= 0) record_.prompt_tokens = event.prompt_tokens;
        record_.output_tokens = std::max(record_.output_tokens, event.completion_tokens);
        break;
      case StreamEvent::Kind::kError:
        if (record_.error.empty()) record_.error = "in the stream: " + event.error;
        break;
      case StreamEvent::Kind::kDone: break;
    }
  }

  void on_chunk(double now_s) {
    const auto second = static_cast<size_t>(now_s);
    if (second >= result_.chunks_per_s.size()) result_.chunks_per_s.resize(second + 1);
    ++result_.chunks_per_s[second];
    const double since_s = now_s - record_.start_s;
    if (has_first_) {
      record_.itls_s.push_back(static_cast<float>(since_s - record_.latency_s));
    } else {
      record_.ttft_s = since_s;
      has_first_ = true;
    }
    record_.latency_s = since_s;
  }

  RequestRecord& record_;
  LoadResult& result_;
  const steady_clock::time_point start_;
  SseSplitter splitter_;
  std::string refusal_;
  bool has_first_ = false;
};

class LoadRun {
 public:
  LoadRun(const LoadTarget& target, const std::vector<LoadRequest>& requests,
          const LoadOptions& options, const std::atomic<bool>& interrupted,
          const std::function<void(int64_t)>& progress)
      : target_(target),
        requests_(requests),
        options_(options),
        interrupted_(interrupted),
        progress_(progress),
        tls_(make_tls(target)),
        endpoints_(resolve(io_, target)),
        room_(io_),
        poll_(io_) {
    result_.records.resize(requests.size());
  }

  LoadResult run() {
    start_ = steady_clock::now();
    asio::co_spawn(io_, send_all(), asio::detached);
    asio::co_spawn(io_, watch(), asio::detached);
    io_.run();
    result_.duration_s = seconds_since(start_);
    return std::move(result_);
  }

 private:
  /// Ends the loop when all is done, or when the user has had enough.
  asio::awaitable<void> watch() {
    while (!interrupted_) {
      poll_.expires_after(kInterruptPoll);
      co_await poll_.async_wait(asio::use_awaitable);
    }
    io_.stop();
  }

  asio::awaitable<void> send_all() {
    asio::steady_timer arrival(io_);
    for (size_t i = 0; i < requests_.size(); ++i) {
      const auto time = after(start_, requests_[i].arrival_s);
      if (time > steady_clock::now()) {
        arrival.expires_at(time);
        co_await arrival.async_wait(asio::use_awaitable);
      }
      while (options_.max_concurrency > 0 && running_ >= options_.max_concurrency) {
        error_code cancelled;  // is how room_ says that a request has ended
        room_.expires_at(steady_clock::time_point::max());
        co_await room_.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
      }
      ++running_;
      result_.peak_concurrency = std::max(result_.peak_concurrency, running_);
      asio::co_spawn(io_, serve(i), asio::detached);
    }
    if (requests_.empty()) io_.stop();
  }

  asio::awaitable<void> serve(size_t index) {
    RequestRecord& record = result_.records[index];
    record.prompt_tokens = requests_[index].prompt_tokens;
    const std::string request = target_.request("POST", options_.path, requests_[index].body);
    record.start_s = seconds_since(start_);
    bool again = true;
    while (again) {
      StreamSink sink(record, result_, start_);
      again = co_await attempt(request, sink, record);
      if (!again) sink.finish();
    }
    --running_;
    room_.cancel();
    progress_(++ended_);
    if (ended_ == static_cast<int64_t>(requests_.size())) io_.stop();
  }

  /// True: a connection that was kept alive had been closed meanwhile, so try another.
  asio::awaitable<bool> attempt(const std::string& request, StreamSink& sink,
                                RequestRecord& record) {
    std::unique_ptr<Connection> connection;
    const bool is_kept = !idle_.empty();
    try {
      if (is_kept) {
        connection = std::move(idle_.back());
        idle_.pop_back();
      } else {
        connection = std::make_unique<Connection>(io_, tls_.get());
        co_await connection->open(endpoints_, target_.host);
      }
      co_await connection->exchange(request, sink);
      if (connection->is_reusable()) idle_.push_back(std::move(connection));
    } catch (const system_error& error) {
      if (is_kept && sink.is_untouched()) co_return true;
      if (record.error.empty()) record.error = error.code().message();
    }
    co_return false;
  }

  const LoadTarget& target_;
  const std::vector<LoadRequest>& requests_;
  const LoadOptions& options_;
  const std::atomic<bool>& interrupted_;
  const std::function<void(int64_t)>& progress_;
  LoadResult result_;  // outlives io_, whose coroutines refer to it
  const std::unique_ptr<asio::ssl::context> tls_;
  int64_t running_ = 0;
  int64_t ended_ = 0;
  steady_clock::time_point start_;
  asio::io_context io_{1};
  const Connection::Endpoints endpoints_;
  asio::steady_timer room_;
  asio::steady_timer poll_;
  std::vector<std::unique_ptr<Connection>> idle_;
};

class PlainSink final : public AnswerSink {
 public:
  static constexpr size_t kMaxBytes = size_t{4} << 20;

  explicit PlainSink(PlainAnswer& answer) : answer_(answer) {}
  void on_status(int status) override { answer_.status = status; }
  bool on_body(std::string_view bytes) override {
    answer_.body.append(bytes);
    return answer_.body.size() < kMaxBytes;
  }

 private:
  PlainAnswer& answer_;
};

}  // namespace

LoadResult run_load(const LoadTarget& target, const std::vector<LoadRequest>& requests,
                    const LoadOptions& options, const std::atomic<bool>& interrupted,
                    const std::function<void(int64_t)>& progress) {
  return LoadRun(target, requests, options, interrupted, progress).run();
}

PlainAnswer get(const LoadTarget& target, std::string_view path, double timeout_s) {
  const std::unique_ptr<asio::ssl::context> tls = make_tls(target);
  const std::string request = target.request("GET", path, "");
  PlainAnswer answer;
  PlainSink sink(answer);
  std::string failure = "no answer in time";
  asio::io_context io{1};
  const Connection::Endpoints endpoints = resolve(io, target);
  Connection connection(io, tls.get());
  const auto ask = [&]() -> asio::awaitable<void> {
    co_await connection.open(endpoints, target.host);
    co_await connection.exchange(request, sink);
  };
  asio::co_spawn(io, ask(), [&](const std::exception_ptr& error) {
    failure.clear();
    try {
      if (error) std::rethrow_exception(error);
    } catch (const system_error& e) {
      failure = e.code().message();
    }
    io.stop();
  });
  io.run_for(std::chrono::milliseconds(static_cast<int64_t>(timeout_s * 1e3)));
  if (!failure.empty()) throw NetworkError(fmt::format("{}{}: {}", target.url(), path, failure));
  return answer;
}

}  // namespace nanoflow
