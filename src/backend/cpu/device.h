// What this machine offers to the process: CPU name, cores, memory (with container limits).
#pragma once

#include <filesystem>

#include "ops/backend.h"

namespace nanoflow::cpu {

/// Reads /proc and /sys below `root` (a test passes a directory of its own). Missing or unreadable
/// entries leave fallbacks: name "CPU", memory 0.
DeviceInfo read_device_info(const std::filesystem::path& root = "/");

}  // namespace nanoflow::cpu
