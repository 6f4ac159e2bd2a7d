// Checksums of files as hubs state them.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace nanoflow {

/// SHA-256 (FIPS 180-4) of a file's content in lower-case hex. `cancelled` (empty: never) is asked
/// every few megabytes; then the result is "". Throws IoError.
std::string sha256_of_file(const std::filesystem::path& path,
                           const std::function<bool()>& cancelled = {});

/// The name git gives the content: SHA-1 of "blob <size>\0" and the content, lower-case hex.
std::string git_blob_sha1_of_file(const std::filesystem::path& path,
                                  const std::function<bool()>& cancelled = {});

/// `digits` lower-case hex digits and nothing else.
bool is_hex(const std::string& text, size_t digits);

}  // namespace nanoflow
