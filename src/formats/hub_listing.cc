#include "formats/hub_listing.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "formats/hub_checksum.h"

namespace nanoflow {
namespace {

std::string string_member(const Json& object, std::string_view key) {
  const Json* const member = object.find(key);
  return member != nullptr && member->is_string() ? member->as_string() : std::string();
}

int64_t size_member(const Json& object, std::string_view key) {
  const Json* const member = object.find(key);
  const bool known = member != nullptr && member->is_int() && member->as_int() >= 0 &&
                     member->as_int() <= kMaxFileBytes;
  return known ? member->as_int() : -1;
}

/// Position behind the bracket expression at pattern[begin] ("["), or npos when it does not end;
/// `hit` says whether it matches `c`.
size_t match_bracket(std::string_view pattern, size_t begin, char c, bool& hit) {
  size_t i = begin + 1;
  const bool negated = i < pattern.size() && pattern[i] == '!';
  if (negated) ++i;
  const size_t first = i;
  hit = false;
  for (; i < pattern.size() && (pattern[i] != ']' || i == first); ++i) {
    if (i + 2 < pattern.size() && pattern[i + 1] == '-' && pattern[i + 2] != ']') {
      hit |= pattern[i] <= c && c <= pattern[i + 2];
      i += 2;
    } else {
      hit |= pattern[i] == c;
    }
  }
  if (i >= pattern.size()) return std::string_view::npos;
  hit ^= negated;
  return i + 1;
}

/// Matches one element of the pattern at `p` against `c`; the position behind it, or npos.
size_t match_one(std::string_view pattern, size_t p, char c) {
  if (p >= pattern.size()) return std::string_view::npos;
  if (pattern[p] == '?') return p + 1;
  if (pattern[p] == '[') {
    bool hit = false;
    const size_t next = match_bracket(pattern, p, c, hit);
    if (next != std::string_view::npos) return hit ? next : std::string_view::npos;
  }
  return pattern[p] == c ? p + 1 : std::string_view::npos;
}

bool matches_any(const std::vector<std::string>& patterns, std::string_view name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& p) { return matches_pattern(p, name); });
}

std::vector<HubFile> filter(const std::vector<HubFile>& files,
                            const std::vector<std::string>& include,
                            const std::vector<std::string>& exclude) {
  std::vector<HubFile> kept;
  std::copy_if(files.begin(), files.end(), std::back_inserter(kept), [&](const HubFile& file) {
    return matches_any(include, file.name) && !matches_any(exclude, file.name);
  });
  return kept;
}

/// What serving needs, see select_files().
std::vector<HubFile> default_selection(const std::vector<HubFile>& files,
                                       const std::vector<std::string>& exclude,
                                       const std::string& repo_id) {
  const std::vector<std::string> texts = {"*.json", "*.jinja", "*.txt", "*.tiktoken",
                                          "tokenizer.model*"};
  std::vector<HubFile> kept, weights, consolidated, ggufs;
  for (const HubFile& file : files) {
    if (matches_any(exclude, file.name)) continue;
    if (matches_pattern("*.gguf", file.name)) ggufs.push_back(file);
    const bool top = file.name.find('/') == std::string::npos;
    if (!top && !matches_pattern("additional_chat_templates/*.jinja", file.name)) continue;
    if (matches_pattern("consolidated*.safetensors", file.name)) {
      consolidated.push_back(file);
    } else if (matches_pattern("*.safetensors", file.name)) {
      weights.push_back(file);
    } else if (matches_any(texts, file.name) && !matches_pattern("consolidated*.json", file.name)) {
      kept.push_back(file);
    }
  }
  if (weights.empty()) weights = std::move(consolidated);
  if (weights.empty() && ggufs.size() == 1) weights = ggufs;
  if (!weights.empty()) {
    kept.insert(kept.end(), weights.begin(), weights.end());
    return kept;
  }
  if (ggufs.empty())
    throw ConfigError(repo_id,
                      "has no .safetensors and no .gguf file; convert its weights to "
                      "safetensors, or choose another repository");
  std::vector<std::string> names;
  names.reserve(ggufs.size());
  for (const HubFile& file : ggufs) names.push_back(file.name);
  throw ConfigError(repo_id, fmt::format("has several .gguf files, name the one to fetch: {}",
                                         fmt::join(names, ", ")));
}

}  // namespace

HubListing parse_hub_listing(const std::string& text, const std::string& url) {
  const auto bad = [&](const std::string& why) {
    return NetworkError(fmt::format(
        "{}: {}; is this a Hugging Face-compatible hub (HF_ENDPOINT), or does a proxy answer?", url,
        why));
  };
  const Result<Json> json = parse_json(text);
  if (!json.has_value()) throw bad("the answer is no JSON");
  HubListing listing{.commit = string_member(*json, "sha"), .files = {}};
  if (!is_hex(listing.commit, 40)) throw bad("the answer has no commit \"sha\"");
  const Json* const siblings = json->find("siblings");
  if (siblings == nullptr || !siblings->is_array()) throw bad("the answer has no file list");
  for (const Json& entry : siblings->as_array()) {
    HubFile file{.name = string_member(entry, "rfilename"),
                 .size = size_member(entry, "size"),
                 .sha256 = {},
                 .git_sha1 = string_member(entry, "blobId")};
    if (const Json* const lfs = entry.find("lfs"); lfs != nullptr && lfs->is_object()) {
      file.sha256 = string_member(*lfs, "sha256");
      if (file.size < 0) file.size = size_member(*lfs, "size");
      file.git_sha1.clear();  // that of the pointer, not of the content
    }
    if (!is_hex(file.sha256, 64)) file.sha256.clear();
    if (!is_hex(file.git_sha1, 40)) file.git_sha1.clear();
    listing.files.push_back(std::move(file));
  }
  return listing;
}

Json listing_to_json(const HubListing& listing) {
  Json files = Json::array();
  for (const HubFile& file : listing.files)
    files.push_back(Json::object({{"name", file.name},
                                  {"size", file.size},
                                  {"sha256", file.sha256},
                                  {"git_sha1", file.git_sha1}}));
  return Json::object({{"format", 1}, {"commit", listing.commit}, {"files", std::move(files)}});
}

HubListing listing_from_json(const Json& json, const std::string& path) {
  const Json* const format = json.find("format");
  const Json* const files = json.find("files");
  HubListing listing{.commit = string_member(json, "commit"), .files = {}};
  if (format == nullptr || *format != Json(1) || files == nullptr || !files->is_array() ||
      !is_hex(listing.commit, 40))
    throw FormatError(path, "is no file list of a repository; delete it");
  for (const Json& entry : files->as_array())
    listing.files.push_back({.name = string_member(entry, "name"),
                             .size = size_member(entry, "size"),
                             .sha256 = string_member(entry, "sha256"),
                             .git_sha1 = string_member(entry, "git_sha1")});
  return listing;
}

bool is_safe_name(std::string_view name) {
  if (name.empty() || name.size() > 1024) return false;
  for (const char c : name)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '\\') return false;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == ".." || part.size() > 255) return false;
    begin = end + 1;
  }
  return true;
}

bool matches_pattern(std::string_view pattern, std::string_view name) {
  std::string directory;
  if (pattern.ends_with('/')) {
    directory = std::string(pattern) + "*";
    pattern = directory;
  }
  // Greedy with one point of return, the last star: linear in pattern x name.
  size_t p = 0, n = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
      continue;
    }
    const size_t next = match_one(pattern, p, name[n]);
    if (next != std::string_view::npos) {
      p = next;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

std::vector<HubFile> select_files(const std::vector<HubFile>& files,
                                  const std::vector<std::string>& include,
                                  const std::vector<std::string>& exclude,
                                  const std::string& repo_id) {
  std::vector<HubFile> kept = include.empty() ? default_selection(files, exclude, repo_id)
                                              : filter(files, include, exclude);
  if (kept.empty())
    throw ConfigError(repo_id, fmt::format("no file matches {}", fmt::join(include, ", ")));
  if (kept.size() > kMaxFiles)
    throw ConfigError(
        repo_id, fmt::format("{} files match, more than {}; name fewer with --include", kept.size(),
                             kMaxFiles));
  for (const HubFile& file : kept)
    if (!is_safe_name(file.name))
      throw NetworkError(
          fmt::format("{}: the hub lists a file whose name would leave the cache "
                      "folder ({:?}); nothing was downloaded",
                      repo_id, file.name));
  return kept;
}

}  // namespace nanoflow
