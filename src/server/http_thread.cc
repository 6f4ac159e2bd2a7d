#include "server/http_thread.h"

#include <memory>
#include <utility>

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

namespace nanoflow {

void IoThread::post(std::function<void()> task) {
  boost::asio::post(loop_, std::move(task));
}

void IoThread::post_after(std::chrono::milliseconds delay, std::function<void()> task) {
  // The timer lives in its own handler.
  auto timer = std::make_unique<boost::asio::steady_timer>(loop_, delay);
  boost::asio::steady_timer& waiting = *timer;
  waiting.async_wait(
      [timer = std::move(timer), task = std::move(task)](const boost::system::error_code& error) {
        if (!error) task();
      });
}

void IoThread::start() {
  thread_ = std::thread([this] { loop_.run(); });
}

void IoThread::stop() {
  work_.reset();
  loop_.stop();
  if (thread_.joinable()) thread_.join();
}

}  // namespace nanoflow
