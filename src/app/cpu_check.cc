// Refuses to start on a CPU that lacks what the CPU backend was compiled for. Without this the
// program would die of an illegal instruction, at a place that says nothing.
#include <unistd.h>
#include <cstdlib>
#include <cstring>

#include "cpu_features.h"

namespace {

#if defined(__x86_64__)

void write_text(const char* text) {
  if (write(STDERR_FILENO, text, std::strlen(text)) < 0) return;  // nobody is left to tell
}

/// Runs before the static initialisers of this program: the linker may have taken the backend's
/// copy of any inline function of the standard library, so nothing but system calls is safe here.
__attribute__((constructor(101))) void check_cpu() {
  __builtin_cpu_init();
  bool complete = true;
  // Unused where the program needs nothing beyond the compiler's default.
  [[maybe_unused]] const auto need = [&complete](bool present, const char* name) {
    if (present) return;
    if (complete) write_text("nanoflow: this CPU lacks");
    complete = false;
    write_text(" ");
    write_text(name);
  };
#define NANOFLOW_NEED(name) need(__builtin_cpu_supports(name) != 0, name);
  NANOFLOW_CPU_FEATURES(NANOFLOW_NEED)
#undef NANOFLOW_NEED
  if (complete) return;
  write_text(", which this program was built for (-march=" NANOFLOW_CPU_ARCH
             "); build it on this machine, or with -DNANOFLOW_CPU_ARCH=x86-64\n");
  _exit(1);
}

#endif

}  // namespace
