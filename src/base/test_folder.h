#pragma once

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

namespace nanoflow {

/// A new, empty folder for a test's files, removed with all that is in it at the end. Every object
/// has one of its own: tests run side by side in several processes, so names must not be shared.
class TestFolder {
 public:
  /// Throws std::system_error if the system's folder for temporary files takes none.
  TestFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "nanoflow_test_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr)
      throw std::system_error(errno, std::generic_category(), name);
    path_ = name;
  }
  ~TestFolder() {
    std::error_code ignored;  // a destructor must not throw; the folder is a temporary one anyway
    std::filesystem::remove_all(path_, ignored);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const {
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace nanoflow
