#include "formats/hub_part_file.h"

#include <fcntl.h>
#include <unistd.h>
#include <fstream>
#include <vector>

#include <gmock/gmock.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/test_folder.h"

namespace nanoflow {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class PartFileTest : public ::testing::Test {
 protected:
  static std::span<const std::byte> bytes(const std::string& text) {
    return std::as_bytes(std::span(text.data(), text.size()));
  }

  const TestFolder temporary_;
  const std::filesystem::path folder_ = temporary_.path();
  const std::filesystem::path blob_ = folder_ / "blob";
};

TEST_F(PartFileTest, PartsInAnyOrderMakeTheFile) {
  PartFile file(blob_, 10, 4);
  ASSERT_EQ(file.num_parts(), 3u);
  EXPECT_EQ(file.begin(2), 8);
  EXPECT_EQ(file.length(2), 2);
  file.append(2, bytes("89"));
  file.append(0, bytes("01"));
  file.append(1, bytes("4567"));
  file.append(0, bytes("23"));
  EXPECT_EQ(file.total_done(), 10);
  file.publish();
  EXPECT_EQ(read_file(blob_), "0123456789");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1) << "only the blob";
}

TEST_F(PartFileTest, GoesOnWhereAnEarlierObjectWasNoted) {
  {
    PartFile file(blob_, 10, 4);
    file.append(0, bytes("0123"));
    file.save(0);
    file.append(1, bytes("45"));
    file.note(1);
    file.append(2, bytes("8"));  // not noted: lost, as when the process is killed
  }
  PartFile file(blob_, 10, 5);  // another part size: that of the run that began counts
  ASSERT_EQ(file.num_parts(), 3u);
  EXPECT_EQ(file.done(0), 4);
  EXPECT_EQ(file.done(1), 2);
  EXPECT_EQ(file.done(2), 0);
  file.append(1, bytes("67"));
  file.append(2, bytes("89"));
  file.publish();
  EXPECT_EQ(read_file(blob_), "0123456789");
}

TEST_F(PartFileTest, LargePartsAreNotedOnTheWay) {
  const std::string megabyte(1 << 20, 'x');
  {
    PartFile file(blob_, 5 << 20, 5 << 20);
    for (int i = 0; i < 3; ++i) file.append(0, bytes(megabyte));
    file.append(0, bytes("y"));
  }
  EXPECT_EQ(PartFile(blob_, 5 << 20, 5 << 20).done(0), 3 << 20);
}

TEST_F(PartFileTest, AnotherSizeOrDamagedStateStartsAgain) {
  const auto begun = [&] {
    PartFile file(blob_, 10, 4);
    file.restart(4);
    file.append(0, bytes("0123"));
    file.note(0);
  };
  begun();
  EXPECT_EQ(PartFile(blob_, 11, 4).total_done(), 0);
  const std::filesystem::path state = blob_.string() + ".nanoflow.parts";
  const std::filesystem::path data = blob_.string() + ".nanoflow.incomplete";
  for (const uintmax_t size : {uintmax_t{0}, uintmax_t{5}, uintmax_t{40}, uintmax_t{100}}) {
    begun();
    std::filesystem::resize_file(state, size);
    EXPECT_EQ(PartFile(blob_, 10, 4).total_done(), 0) << size;
  }
  begun();
  std::filesystem::resize_file(data, 9);
  EXPECT_EQ(PartFile(blob_, 10, 4).total_done(), 0);
  // Any byte of the state may be wrong; what is claimed stays within the parts.
  for (std::streamoff at = 0; at < 56; ++at) {
    begun();
    std::fstream file(state, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(at);
    file.put('\xff');
    file.close();
    const PartFile again(blob_, 10, 4);
    for (size_t part = 0; part < again.num_parts(); ++part) {
      EXPECT_GE(again.done(part), 0) << at;
      EXPECT_LE(again.done(part), again.length(part)) << at;
    }
  }
}

TEST_F(PartFileTest, EmptyFile) {
  PartFile file(blob_, 0, 4);
  EXPECT_EQ(file.num_parts(), 0u);
  file.publish();
  EXPECT_EQ(read_file(blob_), "");
}

TEST_F(PartFileTest, RestartAndDiscard) {
  PartFile file(blob_, 10, 4);
  file.append(0, bytes("0123"));
  file.restart(10);
  EXPECT_EQ(file.num_parts(), 1u);
  EXPECT_EQ(file.total_done(), 0);
  EXPECT_GT(reserved_bytes(blob_), 0);
  file.discard();
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  EXPECT_EQ(reserved_bytes(blob_), 0);
}

TEST_F(PartFileTest, AFullDiskSaysWhatToDo) {
  const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  ASSERT_GE(full, 0);
  EXPECT_THAT(
      [&] { write_at(full, bytes("x"), 0, "/cache/blob"); },
      ThrowsMessage<IoError>(::testing::AllOf(
          HasSubstr("/cache/blob"), HasSubstr("the disk is full"), HasSubstr("HF_HUB_CACHE"))));
  ::close(full);
}

}  // namespace
}  // namespace nanoflow
