#include "formats/hub_checksum.h"

#include <fcntl.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include <fmt/format.h>
#include <openssl/evp.h>

#include "base/check.h"
#include "base/error.h"

namespace nanoflow {
namespace {

constexpr size_t kBlockBytes = size_t{4} << 20;

struct DigestDeleter {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

std::string digest_of_file(const std::filesystem::path& path, const EVP_MD* kind,
                           const std::string& prefix, const std::function<bool()>& cancelled) {
  const std::unique_ptr<EVP_MD_CTX, DigestDeleter> context(EVP_MD_CTX_new());
  NANO_CHECK(context != nullptr && EVP_DigestInit_ex(context.get(), kind, nullptr) == 1);
  NANO_CHECK(EVP_DigestUpdate(context.get(), prefix.data(), prefix.size()) == 1);
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw IoError(path.string(), std::strerror(errno));
  const std::unique_ptr<const int, void (*)(const int*)> closer(&file,
                                                                [](const int* f) { ::close(*f); });
  ::posix_fadvise(file, 0, 0, POSIX_FADV_SEQUENTIAL);
  std::vector<unsigned char> block(kBlockBytes);
  for (;;) {
    if (cancelled && cancelled()) return {};
    const ssize_t bytes = ::read(file, block.data(), block.size());
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) throw IoError(path.string(), std::strerror(errno));
    if (bytes == 0) break;
    NANO_CHECK(EVP_DigestUpdate(context.get(), block.data(), static_cast<size_t>(bytes)) == 1);
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  NANO_CHECK(EVP_DigestFinal_ex(context.get(), digest, &size) == 1);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

}  // namespace

std::string sha256_of_file(const std::filesystem::path& path,
                           const std::function<bool()>& cancelled) {
  return digest_of_file(path, EVP_sha256(), "", cancelled);
}

std::string git_blob_sha1_of_file(const std::filesystem::path& path,
                                  const std::function<bool()>& cancelled) {
  std::string prefix = fmt::format("blob {}", std::filesystem::file_size(path));
  prefix += '\0';
  return digest_of_file(path, EVP_sha1(), prefix, cancelled);
}

bool is_hex(const std::string& text, size_t digits) {
  return text.size() == digits && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

}  // namespace nanoflow
