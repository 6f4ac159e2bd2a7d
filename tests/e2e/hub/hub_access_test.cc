// Who may read what, where the token goes, what a person is told, and names that a server must not
// choose.
#include <gmock/gmock.h>

#include "base/error.h"
#include "base/mmap.h"
#include "fake_hub_process.h"

namespace nanoflow {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class HubAccess : public HubTest {};

void serve_gated(FakeHub& hub) {
  hub.control(R"({"reset": true, "repos": {"org/model": {"gated": true, "files": {
      "config.json": {"text": "{}"}, "model.safetensors": {"size": 300000}}}}})");
}

TEST_F(HubAccess, TheTokenNeverLeavesTheHub) {
  serve_gated(hub());
  HubSettings with_token = settings();
  with_token.token = "hf_right";
  (void)pull(with_token);
  EXPECT_FALSE(seen("cdn", "GET").empty());
  for (const SeenRequest& request : hub().log()) {
    if (request.server == "cdn") {
      EXPECT_EQ(request.authorization, "") << request.path;
    } else if (request.path.find("/_") != 0) {
      EXPECT_EQ(request.authorization, "Bearer hf_right") << request.path;
    }
  }
}

TEST_F(HubAccess, GatedWithoutATokenSaysWhatToDo) {
  serve_gated(hub());
  EXPECT_THAT(error_of_pull(), AllOf(HasSubstr("accept the licence at " + hub().endpoint() +
                                               "/org/model and set HF_TOKEN"),
                                     Not(HasSubstr("the token that is set"))));
}

TEST_F(HubAccess, GatedWithAWrongTokenSaysSo) {
  serve_gated(hub());
  HubSettings wrong = settings();
  wrong.token = "hf_wrong";
  const std::string error = error_of_pull(wrong);
  EXPECT_THAT(error, AllOf(HasSubstr("accept the licence"), HasSubstr("has no access")));
  EXPECT_THAT(error, Not(HasSubstr("hf_wrong"))) << "messages end in logs";
}

TEST_F(HubAccess, PrivateOrAbsent) {
  hub().control(R"({"reset": true})");
  EXPECT_THAT(error_of_pull(), HasSubstr("org/model does not exist or is private"));
}

TEST_F(HubAccess, NoSuchRevision) {
  serve_model(10);
  PullOptions options;
  options.revision = "v9";
  EXPECT_THAT(error_of_pull(settings(), options), HasSubstr("org/model has no revision \"v9\""));
}

TEST_F(HubAccess, MovedRepositoriesAreFollowed) {
  hub().control(R"({"reset": true, "repos": {
      "org/model": {"moved": "new/home", "files": {}},
      "new/home": {"files": {"config.json": {"text": "{}"}, "model.safetensors": {"size": 9}}}}})");
  EXPECT_EQ(read_file(pull().path / "config.json"), "{}");
}

TEST_F(HubAccess, NobodyListens) {
  HubSettings nowhere = settings();
  nowhere.endpoint = "http://127.0.0.1:1";
  nowhere.max_attempts = 2;
  EXPECT_THAT(error_of_pull(nowhere), HasSubstr("cannot reach http://127.0.0.1:1"));
}

TEST_F(HubAccess, SomethingElseAnswers) {
  serve_model(10);
  HubSettings elsewhere = settings();
  elsewhere.endpoint += "/portal";
  EXPECT_THAT(error_of_pull(elsewhere), HasSubstr("does not exist at"));
  hub().control(R"({"faults": [{"match": "/api/", "do": "status", "status": 200}]})");
  EXPECT_THAT(error_of_pull(), HasSubstr("is this a Hugging Face-compatible hub"));
}

TEST_F(HubAccess, PlainHttpOnATlsAddressIsAnErrorNotAHang) {
  HubSettings tls = settings();
  tls.endpoint.replace(0, 4, "https");
  tls.max_attempts = 2;
  EXPECT_THAT(error_of_pull(tls), HasSubstr("cannot reach https://127.0.0.1"));
}

TEST_F(HubAccess, OfflineUsesTheCacheOrNamesWhatIsMissing) {
  HubSettings offline = settings();
  offline.offline = true;
  EXPECT_THAT(error_of_pull(offline),
              AllOf(HasSubstr("nothing of it is there"), HasSubstr("HF_HUB_OFFLINE")));
  serve_model(1000);
  const PullResult online = pull();
  EXPECT_EQ(pull(offline).path, online.path);
  std::filesystem::remove(online.path / "model.safetensors");
  EXPECT_THAT(error_of_pull(offline), HasSubstr("missing: model.safetensors"));
}

TEST_F(HubAccess, AHubInTroubleIsReplacedByACompleteCache) {
  serve_model(1000);
  const PullResult online = pull();
  hub().control(R"({"faults": [{"match": "/api/", "times": -1, "do": "status", "status": 503}]})");
  EXPECT_EQ(pull().path, online.path);
  std::filesystem::remove(online.path / "model.safetensors");
  EXPECT_THAT(error_of_pull(), HasSubstr("is in trouble"));
}

TEST_F(HubAccess, AnAccessThatWasWithdrawnLeavesTheCache) {
  serve_model(1000);
  const PullResult online = pull();
  hub().control(R"({"reset": true})");
  EXPECT_EQ(pull().path, online.path);
}

TEST_F(HubAccess, ACommitNeedsNoNetworkTwice) {
  serve_model(1000);
  PullOptions options;
  options.revision = pull().commit;
  const size_t requests = hub().log().size();
  (void)pull(options);
  EXPECT_EQ(hub().log().size(), requests);
}

TEST_F(HubAccess, NamesThatLeaveTheCacheAreRefused) {
  for (const char* name : {"../../evil.json", "/etc/evil.json", "a//b.json", "a/../b.json",
                           "a\\\\b.json", "./a.json", "a\\u0000b.json"}) {
    hub().control(std::string(R"({"reset": true, "repos": {"org/model": {"files": {
        "model.safetensors": {"size": 10}, ")") +
                  name + R"(": {"text": "x"}}}}})");
    PullOptions options;
    options.include = {"*"};
    EXPECT_THAT(error_of_pull(settings(), options), HasSubstr("would leave the cache")) << name;
    EXPECT_TRUE(seen("hub", "HEAD").empty());
  }
}

TEST_F(HubAccess, EtagsThatAreNoFileNamesAreRefused) {
  for (const char* etag : {"../x", "..", "", "a/b"}) {
    serve_model(10, "[]", std::string(R"(, "extra.txt": {"text": "x", "etag": ")") + etag + "\"}");
    EXPECT_THAT(error_of_pull(), HasSubstr("no usable ETag")) << etag;
  }
}

TEST_F(HubAccess, CommitsThatAreNoHashesAreRefused) {
  hub().control(R"({"reset": true, "repos": {"org/model": {"commit": "../../x", "files": {}}}})");
  EXPECT_THAT(error_of_pull(), HasSubstr("no commit \"sha\""));
}

TEST_F(HubAccess, LinksThatLeaveTheSnapshotAreRefused) {
  serve_model(10, "[]", R"(, "sub/a.json": {"text": "x"})");
  PullOptions options;
  options.include = {"*"};
  const PullResult first = pull(options);
  std::filesystem::remove_all(first.path / "sub");
  const std::filesystem::path outside = cache_ / "outside";
  std::filesystem::create_directory(outside);
  std::filesystem::create_directory_symlink(outside, first.path / "sub");
  EXPECT_THAT(error_of_pull(settings(), options), HasSubstr("leads out of the snapshot"));
  EXPECT_TRUE(std::filesystem::is_empty(outside));
}

TEST_F(HubAccess, HubIdsAndRevisionsAreChecked) {
  const HubClient client(settings(), logger_);
  for (const char* id : {"", "a/b/c", "../x", "a/..", "org/", "/x", "a b", "a--b", "-a", "a."})
    EXPECT_THROW((void)client.pull(id, {}), ConfigError) << id;
  for (const char* revision : {"", "..", "a/../b", "/x"}) {
    PullOptions options;
    options.revision = revision;
    EXPECT_THROW((void)client.pull("org/model", options), ConfigError) << revision;
  }
}

TEST_F(HubAccess, ACacheThatCannotBeWrittenNamesTheSetting) {
  serve_model(10);
  HubSettings nowhere = settings();
  nowhere.cache_dir = "/proc/nowhere";
  EXPECT_THAT(error_of_pull(nowhere), HasSubstr("set HF_HUB_CACHE"));
}

}  // namespace
}  // namespace nanoflow
