#include "backend/cpu/device.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "base/test_folder.h"

namespace nanoflow::cpu {
namespace {

/// A folder that looks like / to the reader.
class FakeRoot {
 public:
  void write(const std::string& file, const std::string& text) {
    std::filesystem::create_directories((folder_ / file).parent_path());
    std::ofstream(folder_ / file) << text;
  }
  [[nodiscard]] const std::filesystem::path& path() const { return folder_.path(); }

 private:
  TestFolder folder_;
};

TEST(DeviceInfoTest, ReadsNameMemoryAndFlags) {
  FakeRoot root;
  root.write("proc/cpuinfo", "processor : 0\nmodel name\t: Some CPU\nflags\t: fpu avx512_bf16\n");
  root.write("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 5 kB\nMemAvailable:  600 kB\n");
  const DeviceInfo info = read_device_info(root.path());
  EXPECT_TRUE(info.name.starts_with("Some CPU (")) << info.name;
  EXPECT_EQ(info.memory_bytes, 1000 * 1024);
  EXPECT_EQ(info.free_bytes, 600 * 1024);
  EXPECT_EQ(info.preferred_dtype, DType::kBF16);
}

TEST(DeviceInfoTest, RespectsContainerLimits) {
  FakeRoot root;
  root.write("proc/meminfo", "MemTotal:  1000 kB\nMemAvailable:  600 kB\n");
  root.write("sys/fs/cgroup/memory.max", "204800\n");
  root.write("sys/fs/cgroup/memory.current", "130000\n");
  root.write("sys/fs/cgroup/memory.stat", "anon 100000\ninactive_file 30000\n");
  root.write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  const DeviceInfo info = read_device_info(root.path());
  EXPECT_EQ(info.memory_bytes, 204800);
  EXPECT_EQ(info.free_bytes, 104800);
  EXPECT_EQ(info.num_sms, 1);
  EXPECT_EQ(info.preferred_dtype, DType::kF32);
}

TEST(DeviceInfoTest, AnUnlimitedContainerChangesNothing) {
  FakeRoot root;
  root.write("proc/meminfo", "MemTotal:  1000 kB\nMemAvailable:  600 kB\n");
  root.write("sys/fs/cgroup/memory.max", "max\n");
  root.write("sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(read_device_info(root.path()).memory_bytes, 1000 * 1024);
  EXPECT_GE(read_device_info(root.path()).num_sms, 1);
}

TEST(DeviceInfoTest, MissingFilesLeaveFallbacks) {
  FakeRoot root;
  const DeviceInfo info = read_device_info(root.path());
  EXPECT_TRUE(info.name.starts_with("CPU ("));
  EXPECT_EQ(info.memory_bytes, 0);
}

}  // namespace
}  // namespace nanoflow::cpu
