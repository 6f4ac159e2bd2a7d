// Which files a repository has and which of them are wanted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace nanoflow {

/// Larger files are lies: a pebibyte, hundreds of times a hub's limit, so that sums of thousands of
/// sizes stay far from int64's end.
constexpr int64_t kMaxFileBytes = int64_t{1} << 50;
/// Most files of one download.
constexpr size_t kMaxFiles = 4096;

/// A file of a repository at one commit, as the hub lists it.
struct HubFile {
  std::string name;      ///< with forward slashes, relative to the repository
  int64_t size = -1;     ///< bytes; -1: the hub does not say
  std::string sha256;    ///< of the content, for large files; "": not stated
  std::string git_sha1;  ///< git's blob id, for small files; "": not stated

  bool operator==(const HubFile&) const = default;
};

struct HubListing {
  std::string commit;  ///< 40 hex digits
  std::vector<HubFile> files;
};

/// Reads the answer of GET /api/models/{repo}/revision/{rev}?blobs=true. `url` is for messages.
/// Throws NetworkError when it is not such an answer.
HubListing parse_hub_listing(const std::string& text, const std::string& url);

/// The listing as it is kept in the cache, and back. The latter throws FormatError.
Json listing_to_json(const HubListing& listing);
HubListing listing_from_json(const Json& json, const std::string& path);

/// Whether a server's name for a file may become a path below a folder: relative, no empty, "." or
/// ".." component, no backslash or control character, at most 255 bytes a component.
bool is_safe_name(std::string_view name);

/// Python's fnmatchcase, as huggingface_hub applies it: * ? [abc] [!a-z] over the whole name; *
/// crosses slashes; a pattern that ends in a slash means everything below.
bool matches_pattern(std::string_view pattern, std::string_view name);

/// The files to fetch. With `include`: those it matches and `exclude` does not. Without: what
/// serving needs, that is *.json, *.jinja, *.txt, tokenizer.model, *.tiktoken and *.safetensors of
/// the top folder (consolidated*.safetensors only when there are no others) and additional chat
/// templates; or, in a repository without safetensors, its one *.gguf.
/// Throws ConfigError when nothing or more than kMaxFiles match or a choice among several .gguf
/// files has to be made, NetworkError for a wanted file whose name is not safe.
std::vector<HubFile> select_files(const std::vector<HubFile>& files,
                                  const std::vector<std::string>& include,
                                  const std::vector<std::string>& exclude,
                                  const std::string& repo_id);

}  // namespace nanoflow
