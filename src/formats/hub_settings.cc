// Settings from the environment: the one place that reads it.
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <initializer_list>

#include "base/error.h"
#include "base/mmap.h"
#include "formats/hub.h"

namespace nanoflow {
namespace {

namespace fs = std::filesystem;

/// The first of `names` that is set and not empty, else "".
std::string environment(std::initializer_list<const char*> names) {
  for (const char* const name : names) {
    const char* const value = std::getenv(name);
    if (value != nullptr && *value != '\0') return value;
  }
  return {};
}

bool is_true(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text == "1" || text == "ON" || text == "YES" || text == "TRUE";
}

std::string trimmed(std::string text) {
  const auto space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  text.erase(std::find_if_not(text.rbegin(), text.rend(), space).base(), text.end());
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), space));
  return text;
}

/// A leading ~ as shells expand it.
fs::path expanded(const std::string& text) {
  if (text == "~" || text.starts_with("~/")) return environment({"HOME"}) + text.substr(1);
  return text;
}

fs::path hf_home() {
  if (const std::string home = environment({"HF_HOME"}); !home.empty()) return expanded(home);
  if (const std::string cache = environment({"XDG_CACHE_HOME"}); !cache.empty())
    return expanded(cache) / "huggingface";
  const std::string home = environment({"HOME"});
  if (home.empty())
    throw ConfigError("HF_HOME",
                      "cannot tell where to keep models: neither HF_HOME nor HOME is set");
  return fs::path(home) / ".cache" / "huggingface";
}

std::string saved_token() {
  if (is_true(environment({"HF_HUB_DISABLE_IMPLICIT_TOKEN"}))) return {};
  const std::string named = environment({"HF_TOKEN_PATH"});
  const fs::path path = named.empty() ? hf_home() / "token" : expanded(named);
  std::error_code error;
  return fs::is_regular_file(path, error) ? trimmed(read_file(path)) : std::string();
}

}  // namespace

HubSettings hub_settings_from_environment() {
  HubSettings settings;
  if (const std::string endpoint = trimmed(environment({"HF_ENDPOINT"})); !endpoint.empty())
    settings.endpoint = endpoint;
  while (settings.endpoint.ends_with('/')) settings.endpoint.pop_back();
  settings.token = trimmed(environment({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}));
  if (settings.token.empty()) settings.token = saved_token();
  const std::string cache = environment({"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"});
  settings.cache_dir = cache.empty() ? hf_home() / "hub" : expanded(cache);
  settings.offline = is_true(environment({"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}));
  settings.ca_bundle = environment({"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"});
  settings.validate();
  return settings;
}

void HubSettings::validate() const {
  if (!endpoint.starts_with("https://") && !endpoint.starts_with("http://"))
    throw ConfigError("HF_ENDPOINT", "\"" + endpoint + "\" should begin with https://");
  const auto printable = [](char c) { return c > ' ' && c < 0x7f; };
  if (!std::all_of(token.begin(), token.end(), printable))
    throw ConfigError("HF_TOKEN", "holds a space, a control or a non-ASCII character");
  if (cache_dir.empty()) throw ConfigError("HF_HUB_CACHE", "must name a folder");
  if (connections < 1 || connections > 64)
    throw ConfigError("connections", "must lie between 1 and 64");
  if (part_bytes < 1) throw ConfigError("part_bytes", "must be positive");
  if (max_attempts < 1) throw ConfigError("max_attempts", "must be positive");
}

}  // namespace nanoflow
