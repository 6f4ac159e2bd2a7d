#include "backend/cpu/device.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>

#include <fmt/format.h>

#include "base/cores.h"

namespace nanoflow::cpu {
namespace {

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

/// The first number of a file; nullopt when there is none ("max", missing file).
std::optional<int64_t> read_number(const std::filesystem::path& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

/// Value of a line "key 123" of a cgroup's memory.stat; 0 when it is missing.
int64_t stat_bytes(const std::filesystem::path& path, const std::string& key) {
  std::ifstream file(path);
  std::string name;
  for (int64_t value = 0; file >> name >> value;)
    if (name == key) return value;
  return 0;
}

/// Bytes of a line "Key:   123 kB" of /proc/meminfo; 0 when it is missing.
int64_t meminfo_bytes(const std::string& meminfo, const std::string& key) {
  const size_t at = meminfo.find(key + ":");
  if (at == std::string::npos) return 0;
  return std::atoll(meminfo.c_str() + at + key.size() + 1) * 1024;
}

/// Memory limit and use of this process's cgroup (version 2, then version 1). Cached file pages
/// that the kernel would give up do not count as used: reading a checkpoint fills them.
struct MemoryLimit {
  int64_t limit = std::numeric_limits<int64_t>::max();
  int64_t used = 0;
};

MemoryLimit cgroup_memory(const std::filesystem::path& root) {
  const std::filesystem::path v2 = root / "sys/fs/cgroup", v1 = v2 / "memory";
  MemoryLimit memory;
  if (const auto limit = read_number(v2 / "memory.max")) {
    memory = {*limit, read_number(v2 / "memory.current").value_or(0) -
                          stat_bytes(v2 / "memory.stat", "inactive_file")};
  } else if (const auto old_limit = read_number(v1 / "memory.limit_in_bytes")) {
    memory = {*old_limit, read_number(v1 / "memory.usage_in_bytes").value_or(0) -
                              stat_bytes(v1 / "memory.stat", "total_inactive_file")};
  }
  return memory;
}

std::string cpu_name(const std::filesystem::path& root) {
  std::istringstream cpuinfo(read_text(root / "proc/cpuinfo"));
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "CPU";
}

bool has_fast_bf16(const std::filesystem::path& root) {
  const std::string cpuinfo = read_text(root / "proc/cpuinfo");
  return cpuinfo.find(" avx512_bf16") != std::string::npos ||
         cpuinfo.find(" amx_bf16") != std::string::npos;
}

}  // namespace

DeviceInfo read_device_info(const std::filesystem::path& root) {
  const std::string meminfo = read_text(root / "proc/meminfo");
  const MemoryLimit limit = cgroup_memory(root);
  DeviceInfo info;
  info.num_sms = usable_cores(root);
  info.name = fmt::format("{} ({} cores)", cpu_name(root), info.num_sms);
  info.memory_bytes = std::min(meminfo_bytes(meminfo, "MemTotal"), limit.limit);
  info.free_bytes = std::min(meminfo_bytes(meminfo, "MemAvailable"),
                             std::max<int64_t>(0, limit.limit - limit.used));
  info.preferred_dtype = has_fast_bf16(root) ? DType::kBF16 : DType::kF32;
  return info;
}

}  // namespace nanoflow::cpu
