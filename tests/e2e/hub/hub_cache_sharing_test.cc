// One cache, two programs: what we pull, the huggingface_hub package finds, and the other way
// round. Needs a Python with that package, named by NANOFLOW_HF_PYTHON; without one these tests are
// skipped, and the layout is held to its documentation alone.
#include <array>
#include <cstdio>
#include <cstdlib>

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "base/error.h"
#include "base/mmap.h"
#include "fake_hub_process.h"

namespace nanoflow {
namespace {

using ::testing::HasSubstr;

class HubCacheSharing : public HubTest {
 protected:
  /// Runs Python code with huggingface_hub against the fake hub and our cache; its output.
  std::string hugging_face(const std::string& code) {
    const char* const python = std::getenv("NANOFLOW_HF_PYTHON");
    const std::string command = fmt::format(
        "env HF_ENDPOINT={} HF_HUB_CACHE={} HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_TELEMETRY=1 "
        "HF_HUB_DISABLE_PROGRESS_BARS=1 {} -c '{}' 2>&1",
        hub().endpoint(), cache_.string(), python, code);
    std::FILE* const pipe = ::popen(command.c_str(), "r");
    std::string output;
    std::array<char, 4096> block{};
    while (std::fgets(block.data(), static_cast<int>(block.size()), pipe) != nullptr)
      output += block.data();
    const int status = ::pclose(pipe);
    EXPECT_EQ(status, 0) << output;
    while (output.ends_with('\n')) output.pop_back();
    return output;
  }

  static bool has_package() { return std::getenv("NANOFLOW_HF_PYTHON") != nullptr; }
};

TEST_F(HubCacheSharing, TheLayoutIsTheDocumentedOne) {
  serve_model(300'000);
  const PullResult result = pull();
  const std::filesystem::path repo = cache_ / "models--org--model";
  EXPECT_EQ(result.path, repo / "snapshots" / result.commit);
  EXPECT_EQ(read_file(repo / "refs" / "main"), result.commit);
  // Small files are named by git's blob id, large ones by SHA-256; `printf {} | git hash-object`.
  EXPECT_EQ(std::filesystem::read_symlink(result.path / "config.json"),
            "../../blobs/9e26dfeeb6e641a33dae4961196235bdb965b21b");
  const auto weights = std::filesystem::read_symlink(result.path / "model.safetensors");
  EXPECT_EQ(weights.filename().string().size(), 64u);
  EXPECT_TRUE(std::filesystem::is_regular_file(repo / "blobs" / weights.filename()));
}

TEST_F(HubCacheSharing, HuggingFaceFindsWhatWePulled) {
  if (!has_package()) GTEST_SKIP() << "NANOFLOW_HF_PYTHON is not set";
  serve_model(300'000, "[]", R"(, "additional_chat_templates/x.jinja": {"text": "x"})");
  const PullResult result = pull();
  EXPECT_EQ(hugging_face("from huggingface_hub import snapshot_download as d; "
                         "print(d(\"org/model\", local_files_only=True))"),
            result.path.string());
  for (const char* name : {"config.json", "model.safetensors", "additional_chat_templates/x.jinja"})
    EXPECT_EQ(hugging_face(fmt::format("from huggingface_hub import try_to_load_from_cache as t; "
                                       "print(t(\"org/model\", \"{}\"))",
                                       name)),
              (result.path / name).string());
  const int64_t sent = bytes_sent();
  EXPECT_EQ(hugging_face("from huggingface_hub import snapshot_download as d; "
                         "print(d(\"org/model\"))"),
            result.path.string());
  EXPECT_EQ(bytes_sent(), sent) << "it fetched a file again";
  EXPECT_EQ(hugging_face("from huggingface_hub import scan_cache_dir as s; i = s(); "
                         "print(len(i.warnings), [r.nb_files for r in i.repos])"),
            "0 [4]");
}

TEST_F(HubCacheSharing, WeTakeWhatHuggingFaceDownloaded) {
  if (!has_package()) GTEST_SKIP() << "NANOFLOW_HF_PYTHON is not set";
  serve_model(300'000);
  const std::string theirs =
      hugging_face("from huggingface_hub import snapshot_download as d; print(d(\"org/model\"))");
  const int64_t sent = bytes_sent();
  HubSettings offline = settings();
  offline.offline = true;
  EXPECT_EQ(pull(offline).path.string(), theirs);
  const PullResult ours = pull();
  EXPECT_EQ(ours.path.string(), theirs);
  EXPECT_EQ(ours.bytes_received, 0);
  EXPECT_EQ(bytes_sent(), sent);
}

TEST_F(HubCacheSharing, WeCompleteWhatHuggingFaceBegan) {
  if (!has_package()) GTEST_SKIP() << "NANOFLOW_HF_PYTHON is not set";
  serve_model(300'000);
  (void)hugging_face(
      "from huggingface_hub import hf_hub_download as d; "
      "d(\"org/model\", \"config.json\")");
  HubSettings offline = settings();
  offline.offline = true;
  EXPECT_THAT(error_of_pull(offline), HasSubstr("missing: model"));
  EXPECT_EQ(pull().bytes_received, 300'000 + 12);
}

}  // namespace
}  // namespace nanoflow
