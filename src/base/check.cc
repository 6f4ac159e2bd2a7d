#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace nanoflow::detail {

void check_failed(const char* expression, const char* file, int line, const std::string& message) {
  std::fprintf(stderr,
               "%s:%d: internal error: %s%s%s\nThis is a bug in NanoFlow; please report it.\n",
               file, line, expression, message.empty() ? "" : ": ", message.c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace nanoflow::detail
