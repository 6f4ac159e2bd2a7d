// Ctrl-C and SIGTERM ask for an orderly end; a second one ends the process at once.
#pragma once

#include <atomic>

namespace nanoflow {

/// Exit code of an interrupted command: 128 + SIGINT, as shells report it.
inline constexpr int kInterruptedExit = 130;

/// Installs handlers for SIGINT and SIGTERM and ignores SIGPIPE (a closed pipe becomes a write
/// error).
void install_signal_handlers();

/// Set by the first SIGINT or SIGTERM; long work polls it. Process-wide state, as is what
/// forgive_interrupt() reads: a signal handler can reach nothing else.
const std::atomic<bool>& interrupted();

/// Forgets a SIGINT, after what it stopped has ended: the next one counts as the first again. False
/// when SIGTERM came, too, which asks for the end of the whole program.
bool forgive_interrupt();

}  // namespace nanoflow
