#include "app/standard_output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace nanoflow {

void write_stdout(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0)
    return;
  if (errno == EPIPE) throw OutputClosed();
  throw IoError("stdout", std::string("cannot write: ") + std::strerror(errno));
}

}  // namespace nanoflow
