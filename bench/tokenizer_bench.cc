// tokenizer_bench: megabytes per second of one core at pieces without a break, at three lengths, so
// that what is not linear shows. Usage: tokenizer_bench TOKENIZER_FOLDER_OR_GGUF...
#include <algorithm>
#include <ctime>
#include <filesystem>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "formats/gguf.h"
#include "text/tokenizer.h"
#include "text/tokenizer_loader.h"

namespace {

constexpr int kRepeats = 5;  // the fastest counts: other load only slows

/// Of this process, so that other load counts less.
double cpu_seconds() {
  std::timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

std::string repeated(const std::string& unit, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += unit;
  return text;
}

std::string random_letters(unsigned letters, size_t bytes) {
  std::mt19937 rng(1);
  std::string text;
  while (text.size() < bytes) text += static_cast<char>('a' + rng() % letters);
  return text;
}

void measure(const nanoflow::Tokenizer& tokenizer, size_t bytes) {
  const std::vector<std::pair<std::string, std::string>> texts = {
      {"a", repeated("a", bytes)},           {"space", repeated(" ", bytes)},
      {"ab", repeated("ab", bytes)},         {"newline", repeated("\n", bytes)},
      {"-", repeated("-", bytes)},           {"two letters", random_letters(2, bytes)},
      {"letters", random_letters(26, bytes)}};
  fmt::print("  {} MB:", bytes / 1000000);
  for (const auto& [name, text] : texts) {
    double best_s = 1e9;
    for (int i = 0; i < kRepeats; ++i) {
      const double start_s = cpu_seconds();
      const auto ids = tokenizer.encode(text);
      best_s = std::min(best_s, cpu_seconds() - start_s);
      if (!ids) throw nanoflow::EnvironmentError(name + " is refused");
    }
    fmt::print("  {} {:.1f}", name, static_cast<double>(text.size()) / best_s * 1e-6);
  }
  fmt::print("  MB/s\n");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    for (int i = 1; i < argc; ++i) {
      const std::filesystem::path path(argv[i]);
      fmt::print("{}\n", path.string());
      const nanoflow::Tokenizer tokenizer =
          path.extension() == ".gguf" ? nanoflow::tokenizer_from_gguf(nanoflow::GgufFile(path))
                                      : nanoflow::load_tokenizer(path);
      for (const size_t bytes : {1000000, 4000000, 32000000}) measure(tokenizer, bytes);
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "tokenizer_bench: {}\n", error.what());
    return 1;
  }
  return 0;
}
