#include "formats/hub_checksum.h"

#include <fstream>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/test_folder.h"

namespace nanoflow {
namespace {

class HubChecksum : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) {
    std::ofstream(folder_ / "file", std::ios::binary) << text;
    return folder_ / "file";
  }
  const TestFolder temporary_;
  const std::filesystem::path folder_ = temporary_.path();
};

TEST_F(HubChecksum, Sha256IsFips180s) {
  EXPECT_EQ(sha256_of_file(write("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_of_file(write("")),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  // FIPS 180-2, appendix B.3: a million times "a".
  EXPECT_EQ(sha256_of_file(write(std::string(1'000'000, 'a'))),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_F(HubChecksum, GitNamesAreGits) {
  EXPECT_EQ(git_blob_sha1_of_file(write("")), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
  EXPECT_EQ(git_blob_sha1_of_file(write("what is up, doc?")),
            "bd9dbf5aae1a3862dd1526723246b20206e5fc37");  // Pro Git, chapter 10.2
}

TEST_F(HubChecksum, CanBeStoppedAndNamesWhatIsMissing) {
  EXPECT_EQ(sha256_of_file(write("abc"), [] { return true; }), "");
  EXPECT_THROW(sha256_of_file(folder_ / "none"), IoError);
}

TEST_F(HubChecksum, HexIsLowerCaseAndOfItsLength) {
  EXPECT_TRUE(is_hex("09af", 4));
  for (const char* text : {"09AF", "09a", "09afb", "09ag", ""})
    EXPECT_FALSE(is_hex(text, 4)) << text;
}

}  // namespace
}  // namespace nanoflow
