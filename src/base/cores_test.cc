#include "base/cores.h"

#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "base/test_folder.h"

namespace nanoflow {
namespace {

class Cores : public testing::Test {
 protected:
  void write(const std::string& file, const std::string& text) {
    std::filesystem::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }

  const TestFolder folder_;
  const std::filesystem::path root_ = folder_.path();
};

TEST_F(Cores, AQuotaBoundsThem) {
  write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(usable_cores(root_), 1);
}

TEST_F(Cores, AQuotaOfTheOldKindBoundsThem) {
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "30000\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(usable_cores(root_), 1);
}

TEST_F(Cores, WithoutAQuotaTheAffinityMaskDecides) {
  const int all = usable_cores(root_);
  EXPECT_GE(all, 1);
  for (const char* text : {"max 100000\n", "", "nonsense", "-1 100000", "100 0", "1e300 1"}) {
    write("sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(usable_cores(root_), all) << text;
  }
}

}  // namespace
}  // namespace nanoflow
