#include <cstdlib>
#include <fstream>
#include <map>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/test_folder.h"
#include "formats/hub.h"

namespace nanoflow {
namespace {

/// Every variable that the settings depend on, unset, and put back afterwards.
class HubSettingsTest : public ::testing::Test {
 protected:
  HubSettingsTest() {
    for (const char* name :
         {"HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME",
          "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HOME", "HF_HUB_OFFLINE",
          "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "REQUESTS_CA_BUNDLE",
          "CURL_CA_BUNDLE", "SSL_CERT_FILE"}) {
      const char* const value = std::getenv(name);
      if (value != nullptr) before_[name] = value;
      names_.emplace_back(name);
      ::unsetenv(name);
    }
    ::setenv("HOME", home_.c_str(), 1);
  }
  ~HubSettingsTest() override {
    for (const std::string& name : names_) ::unsetenv(name.c_str());
    for (const auto& [name, value] : before_) ::setenv(name.c_str(), value.c_str(), 1);
  }

  std::vector<std::string> names_;
  std::map<std::string, std::string> before_;
  const TestFolder folder_;
  const std::filesystem::path home_ = folder_.path();
};

TEST_F(HubSettingsTest, Defaults) {
  const HubSettings settings = hub_settings_from_environment();
  EXPECT_EQ(settings.endpoint, "https://huggingface.co");
  EXPECT_EQ(settings.token, "");
  EXPECT_EQ(settings.cache_dir, home_ / ".cache/huggingface/hub");
  EXPECT_FALSE(settings.offline);
}

TEST_F(HubSettingsTest, FoldersInTheirOrder) {
  ::setenv("XDG_CACHE_HOME", "/xdg", 1);
  EXPECT_EQ(hub_settings_from_environment().cache_dir, "/xdg/huggingface/hub");
  ::setenv("HF_HOME", "~/hf", 1);
  EXPECT_EQ(hub_settings_from_environment().cache_dir, home_ / "hf/hub");
  ::setenv("HUGGINGFACE_HUB_CACHE", "/old", 1);
  EXPECT_EQ(hub_settings_from_environment().cache_dir, "/old");
  ::setenv("HF_HUB_CACHE", "/new", 1);
  EXPECT_EQ(hub_settings_from_environment().cache_dir, "/new");
}

TEST_F(HubSettingsTest, NoFolderAtAll) {
  ::unsetenv("HOME");
  EXPECT_THROW(hub_settings_from_environment(), ConfigError);
}

TEST_F(HubSettingsTest, TokensInTheirOrder) {
  std::filesystem::create_directories(home_ / ".cache/huggingface");
  std::ofstream(home_ / ".cache/huggingface/token") << "hf_file\n";
  EXPECT_EQ(hub_settings_from_environment().token, "hf_file");
  ::setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1", 1);
  EXPECT_EQ(hub_settings_from_environment().token, "");
  ::unsetenv("HF_HUB_DISABLE_IMPLICIT_TOKEN");
  std::ofstream(home_ / "other") << "hf_other";
  ::setenv("HF_TOKEN_PATH", "~/other", 1);
  EXPECT_EQ(hub_settings_from_environment().token, "hf_other");
  ::setenv("HF_TOKEN", " hf_variable ", 1);
  EXPECT_EQ(hub_settings_from_environment().token, "hf_variable");
  // A line break would end the header and begin another.
  ::setenv("HF_TOKEN", "hf_a\r\nX-Evil: 1", 1);
  EXPECT_THROW(hub_settings_from_environment(), ConfigError);
}

TEST_F(HubSettingsTest, EndpointAndSwitches) {
  ::setenv("HF_ENDPOINT", "https://mirror.example//", 1);
  ::setenv("HF_HUB_OFFLINE", "true", 1);
  ::setenv("SSL_CERT_FILE", "/a.pem", 1);
  const HubSettings settings = hub_settings_from_environment();
  EXPECT_EQ(settings.endpoint, "https://mirror.example");
  EXPECT_TRUE(settings.offline);
  EXPECT_EQ(settings.ca_bundle, "/a.pem");
  ::setenv("HF_HUB_OFFLINE", "0", 1);
  EXPECT_FALSE(hub_settings_from_environment().offline);
  ::setenv("HF_ENDPOINT", "ftp://mirror", 1);
  EXPECT_THROW(hub_settings_from_environment(), ConfigError);
}

}  // namespace
}  // namespace nanoflow
