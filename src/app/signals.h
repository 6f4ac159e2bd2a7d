// Ctrl-C and SIGTERM ask for an orderly end; a second one ends the process at once.
#pragma once

#include <atomic>

namespace nanoflow {

/// Installs handlers for SIGINT and SIGTERM and ignores SIGPIPE (a closed pipe becomes a write
/// error).
void install_signal_handlers();

/// Set by the first SIGINT or SIGTERM; long work polls it. The one piece of process-wide state: a
/// signal handler can reach nothing else.
const std::atomic<bool>& interrupted();

}  // namespace nanoflow
