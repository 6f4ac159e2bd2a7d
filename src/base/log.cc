#include "base/log.h"

#include <array>
#include <ctime>

namespace nanoflow {

void Logger::write(LogLevel level, std::string_view line) {
  constexpr std::array<const char*, 5> kNames = {"DEBUG", "INFO", "WARNING", "ERROR", ""};
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 32> stamp{};
  std::strftime(stamp.data(), stamp.size(), "%F %T", &local);
  const std::string text =
      fmt::format("{} {} {}\n", stamp.data(), kNames[static_cast<size_t>(level)], line);
  const std::lock_guard lock(mutex_);
  std::fwrite(text.data(), 1, text.size(), out_);
  std::fflush(out_);
}

}  // namespace nanoflow
