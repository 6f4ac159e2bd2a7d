#include "app/signals.h"

#include <unistd.h>
#include <csignal>

namespace nanoflow {
namespace {

std::atomic<bool> g_interrupted{false};
std::atomic<bool> g_terminated{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may not lock");

extern "C" void on_signal(int signal) {
  if (signal == SIGTERM) g_terminated = true;
  if (g_interrupted.exchange(true)) ::_exit(kInterruptedExit);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};  // without SA_RESTART: a read of the terminal ends, too
  action.sa_handler = on_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

const std::atomic<bool>& interrupted() {
  return g_interrupted;
}

bool forgive_interrupt() {
  if (g_terminated) return false;
  g_interrupted = false;
  return true;
}

}  // namespace nanoflow
