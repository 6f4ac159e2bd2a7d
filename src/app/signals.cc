#include "app/signals.h"

#include <unistd.h>
#include <csignal>

namespace nanoflow {
namespace {

std::atomic<bool> g_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may not lock");

extern "C" void on_signal(int /*signal*/) {
  constexpr int kInterruptedExit = 130;
  if (g_interrupted.exchange(true)) ::_exit(kInterruptedExit);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

const std::atomic<bool>& interrupted() {
  return g_interrupted;
}

}  // namespace nanoflow
