#include "server/http_exchange.h"

#include <utility>

#include "base/check.h"
#include "server/http_connection.h"
#include "server/http_loop.h"

namespace nanoflow {
namespace {

class Exchange final : public HttpExchange {
 public:
  explicit Exchange(std::shared_ptr<HttpConnection> connection)
      : connection_(std::move(connection)) {}
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  // Posting fails only for want of memory, and then ends the program, as it should.
  ~Exchange() override {  // NOLINT(bugprone-exception-escape)
    if (stage_ == Stage::kDone) return;
    HttpLoop& loop = *connection_->loop();
    if (loop.is_current()) {
      connection_->abandon();
    } else {
      loop.post([connection = std::move(connection_)] { connection->abandon(); });
    }
  }

  HttpThread& thread() override { return *connection_->loop(); }

  void respond(HttpResponse response) override {
    check(Stage::kOpen);
    stage_ = Stage::kDone;
    connection_->respond(std::move(response));
  }

  void begin_stream(HttpResponse head) override {
    check(Stage::kOpen);
    stage_ = Stage::kStreaming;
    connection_->begin_stream(std::move(head));
  }

  void write(std::string_view bytes) override {
    check(Stage::kStreaming);
    connection_->write(bytes);
  }

  void end_stream() override {
    check(Stage::kStreaming);
    stage_ = Stage::kDone;
    connection_->end_stream();
  }

  // Once answered, the connection may be at its next request.
  void on_closed(std::function<void()> task) override {
    NANO_CHECK(connection_->loop()->is_current());
    if (stage_ != Stage::kDone) connection_->set_on_closed(std::move(task));
  }

 private:
  enum class Stage : uint8_t { kOpen, kStreaming, kDone };

  void check(Stage expected) const {
    NANO_CHECK(connection_->loop()->is_current(), "an answer is given on its exchange's thread");
    NANO_CHECK(stage_ == expected, "an answer is respond(), or begin_stream() to end_stream()");
  }

  std::shared_ptr<HttpConnection> connection_;  // with its thread's list and waits
  Stage stage_ = Stage::kOpen;
};

}  // namespace

std::shared_ptr<HttpExchange> make_exchange(std::shared_ptr<HttpConnection> connection) {
  return std::make_shared<Exchange>(std::move(connection));
}

}  // namespace nanoflow
