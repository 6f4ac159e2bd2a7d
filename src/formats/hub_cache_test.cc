#include "formats/hub_cache.h"

#include <chrono>
#include <fstream>
#include <thread>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/test_folder.h"

namespace nanoflow {
namespace {

class HubCacheTest : public ::testing::Test {
 protected:
  void write(const std::filesystem::path& path, const std::string& text) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }

  const TestFolder temporary_;
  const std::filesystem::path folder_ = temporary_.path();
  const std::string commit_ = std::string(40, 'a');
};

TEST_F(HubCacheTest, RefsAreWrittenAndRead) {
  const HubCache cache(folder_, "org/model");
  EXPECT_EQ(cache.commit_of("main"), std::nullopt);
  EXPECT_EQ(cache.commit_of(commit_), commit_);
  cache.write_ref("refs/pr/1", commit_);
  EXPECT_EQ(read_file(folder_ / "models--org--model/refs/refs/pr/1"), commit_);
  EXPECT_EQ(cache.commit_of("refs/pr/1"), commit_);
  write(cache.folder() / "refs/odd", "../../etc");
  EXPECT_EQ(cache.commit_of("odd"), std::nullopt) << "no commit, so no folder of that name";
  EXPECT_EQ(cache.commit_of("../refs/odd"), std::nullopt);
}

TEST_F(HubCacheTest, ListingsAreOursOrTheirs) {
  const HubCache cache(folder_, "org/model");
  EXPECT_FALSE(cache.read_listing(commit_).has_value());
  const std::filesystem::path tree = cache.folder() / "trees" / (commit_ + ".json");
  write(tree, R"({"format_version": 1, "files": {"config.json": {"size": 3, "blob_id": "x"},
                  "w": {"size": 4, "blob_id": "y", "lfs_sha256": "z", "lfs_size": 4}}})");
  const std::optional<HubListing> theirs = cache.read_listing(commit_);
  ASSERT_TRUE(theirs.has_value());
  ASSERT_EQ(theirs->files.size(), 2u);
  EXPECT_EQ(theirs->files[0], (HubFile{.name = "config.json", .size = 3, .git_sha1 = "x"}));
  EXPECT_EQ(theirs->files[1], (HubFile{.name = "w", .size = 4, .sha256 = "z"}));
  cache.write_listing({.commit = commit_, .files = {{.name = "one", .size = 1}}});
  EXPECT_EQ(cache.read_listing(commit_)->files.size(), 1u);
  for (const char* broken : {"", "[]", "{", "{\"files\": 3}"}) {
    write(cache.folder() / "nanoflow" / (commit_ + ".json"), broken);
    EXPECT_EQ(cache.read_listing(commit_)->files.size(), 2u) << broken;
    write(tree, broken);
    EXPECT_FALSE(cache.read_listing(commit_).has_value()) << broken;
    write(tree, R"({"files": {"a": {}, "b": {}}})");
  }
}

TEST_F(HubCacheTest, LinksAreRelativeAndReplaced) {
  const HubCache cache(folder_, "org/model");
  write(cache.blob("one"), "1");
  write(cache.blob("two"), "22");
  cache.link(commit_, "sub/file", "one");
  EXPECT_EQ(std::filesystem::read_symlink(cache.snapshot(commit_) / "sub/file"),
            "../../../blobs/one");
  EXPECT_TRUE(cache.has(commit_, {.name = "sub/file", .size = 1}));
  EXPECT_TRUE(cache.has(commit_, {.name = "sub/file"}));
  EXPECT_FALSE(cache.has(commit_, {.name = "sub/file", .size = 2})) << "cut short";
  cache.link(commit_, "sub/file", "two");
  EXPECT_EQ(read_file(cache.snapshot(commit_) / "sub/file"), "22");
  std::filesystem::remove(cache.blob("two"));
  EXPECT_FALSE(cache.has(commit_, {.name = "sub/file"})) << "dangling";
}

TEST_F(HubCacheTest, LocksExcludeAndAreReleased) {
  const std::filesystem::path path = folder_ / ".locks" / "a.lock";
  std::optional<FileLock> first = FileLock::acquire(path, {});
  ASSERT_TRUE(first.has_value());
  int asked = 0;
  EXPECT_FALSE(FileLock::acquire(path, [&] { return ++asked > 2; }).has_value());
  EXPECT_EQ(asked, 3);
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    std::filesystem::remove(path);  // as some programs do when they are done
    first.reset();
  });
  const std::optional<FileLock> second = FileLock::acquire(path, {});
  other.join();
  ASSERT_TRUE(second.has_value());
  EXPECT_FALSE(FileLock::acquire(path, [] { return true; }).has_value())
      << "the second lock is on the file that is there now";
}

TEST_F(HubCacheTest, FreeDisk) {
  EXPECT_GT(free_disk_bytes(folder_ / "not" / "yet"), 0);
  EXPECT_THROW(require_free_disk(folder_, int64_t{1} << 60), IoError);
  require_free_disk(folder_, 0);
}

}  // namespace
}  // namespace nanoflow
