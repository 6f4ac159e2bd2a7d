// NANO_CHECK: invariants that only our own bug can break. Failure prints location and values, then
// aborts. Never reachable from user input (use Result) nor from the environment (throw base/error.h
// types).
#pragma once

#include <string>
#include <string_view>

#include <fmt/format.h>

namespace nanoflow::detail {

[[noreturn]] void check_failed(const char* expression, const char* file, int line,
                               const std::string& message);

inline std::string check_message() {
  return {};
}
template <typename... Args>
std::string check_message(fmt::format_string<Args...> format, Args&&... args) {
  return fmt::format(format, std::forward<Args>(args)...);
}

}  // namespace nanoflow::detail

/// NANO_CHECK(condition) or NANO_CHECK(condition, "fmt {}", value): aborts with a message when
/// false.
#define NANO_CHECK(condition, ...)                                                      \
  do {                                                                                  \
    if (!(condition)) [[unlikely]] {                                                    \
      ::nanoflow::detail::check_failed(#condition, __FILE__, __LINE__,                  \
                                       ::nanoflow::detail::check_message(__VA_ARGS__)); \
    }                                                                                   \
  } while (false)
