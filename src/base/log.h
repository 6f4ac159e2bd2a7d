// Log lines on stderr: "2026-01-31 12:00:00 INFO message". stdout belongs to results.
// A Logger is passed to whoever logs; there is no global one.
#pragma once

#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string_view>

#include <fmt/format.h>

namespace nanoflow {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError, kOff };

/// Thread-safe line logger; a line is written in one call, so lines of several threads never mix.
class Logger {
 public:
  explicit Logger(LogLevel level = LogLevel::kInfo, std::FILE* out = stderr)
      : level_(level), out_(out) {}

  [[nodiscard]] bool enabled(LogLevel level) const { return level >= level_; }

  template <typename... Args>
  void debug(fmt::format_string<Args...> f, Args&&... args) {
    if (enabled(LogLevel::kDebug))
      write(LogLevel::kDebug, fmt::format(f, std::forward<Args>(args)...));
  }
  template <typename... Args>
  void info(fmt::format_string<Args...> f, Args&&... args) {
    if (enabled(LogLevel::kInfo))
      write(LogLevel::kInfo, fmt::format(f, std::forward<Args>(args)...));
  }
  template <typename... Args>
  void warning(fmt::format_string<Args...> f, Args&&... args) {
    if (enabled(LogLevel::kWarning))
      write(LogLevel::kWarning, fmt::format(f, std::forward<Args>(args)...));
  }
  template <typename... Args>
  void error(fmt::format_string<Args...> f, Args&&... args) {
    if (enabled(LogLevel::kError))
      write(LogLevel::kError, fmt::format(f, std::forward<Args>(args)...));
  }

 private:
  void write(LogLevel level, std::string_view line);

  LogLevel level_;
  std::FILE* out_;
  std::mutex mutex_;
};

}  // namespace nanoflow
