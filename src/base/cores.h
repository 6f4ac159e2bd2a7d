// How many cores this process may use.
#pragma once

#include <filesystem>

namespace nanoflow {

/// Cores of the process's affinity mask, but no more than its cgroup's CPU quota pays for (rounded
/// up); at least 1. Files are read below `root` (a test passes a directory of its own).
int usable_cores(const std::filesystem::path& root = "/");

}  // namespace nanoflow
