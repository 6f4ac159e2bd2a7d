#include "fake_hub_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include <fmt/format.h>

#include "base/error.h"

namespace nanoflow {
namespace {

std::string text_of(const Json& object, std::string_view key) {
  const Json* const member = object.find(key);
  return member != nullptr && member->is_string() ? member->as_string() : std::string();
}

}  // namespace

FakeHub::FakeHub() {
  std::array<int, 2> in{}, out{};
  if (::pipe2(in.data(), O_CLOEXEC) != 0 || ::pipe2(out.data(), O_CLOEXEC) != 0)
    throw std::runtime_error("pipe2");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  std::array<const char*, 3> argv = {NANOFLOW_PYTHON, NANOFLOW_FAKE_HUB, nullptr};
  const int failed = posix_spawn(&child_, NANOFLOW_PYTHON, &actions, nullptr,
                                 const_cast<char* const*>(argv.data()), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(in[0]);
  ::close(out[1]);
  to_child_ = in[1];
  std::FILE* const answers = ::fdopen(out[0], "r");
  int cdn_port = 0;
  const bool ready = failed == 0 && std::fscanf(answers, "%d %d", &hub_port_, &cdn_port) == 2;
  std::fclose(answers);
  if (!ready) throw std::runtime_error("fake_hub.py does not start");
}

FakeHub::~FakeHub() {
  ::close(to_child_);
  ::kill(child_, SIGTERM);
  ::waitpid(child_, nullptr, 0);
}

std::string FakeHub::endpoint() const {
  return fmt::format("http://127.0.0.1:{}", hub_port_);
}

std::string FakeHub::ask(const std::string& request) const {
  const int connection = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(hub_port_));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(connection, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::send(connection, request.data(), request.size(), MSG_NOSIGNAL) !=
          static_cast<ssize_t>(request.size()))
    throw std::runtime_error("the fake hub does not answer");
  std::string answer;
  std::array<char, 65536> block{};
  for (ssize_t bytes = 0; (bytes = ::recv(connection, block.data(), block.size(), 0)) > 0;)
    answer.append(block.data(), static_cast<size_t>(bytes));
  ::close(connection);
  const size_t body = answer.find("\r\n\r\n");
  if (body == std::string::npos) throw std::runtime_error("no answer of the fake hub");
  return answer.substr(body + 4);
}

void FakeHub::control(const std::string& json) {
  (void)ask(
      fmt::format("POST /_control HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                  "Content-Length: {}\r\n\r\n{}",
                  json.size(), json));
}

std::vector<SeenRequest> FakeHub::log() {
  const Result<Json> json =
      parse_json(ask("GET /_log HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
  std::vector<SeenRequest> requests;
  for (const Json& entry : json.value().as_array())
    requests.push_back({.server = text_of(entry, "server"),
                        .method = text_of(entry, "method"),
                        .path = text_of(entry, "path"),
                        .range = text_of(entry, "range"),
                        .authorization = text_of(entry, "authorization"),
                        .sent = entry.find("sent")->as_int()});
  return requests;
}

FakeHub* HubTest::hub_ = nullptr;

void HubTest::SetUpTestSuite() {
  hub_ = new FakeHub;
}

void HubTest::TearDownTestSuite() {
  delete hub_;
  hub_ = nullptr;
}

void HubTest::serve_model(int64_t bytes, const std::string& faults, const std::string& more) {
  hub().control(fmt::format(
      R"({{"reset": true, "faults": {}, "repos": {{"org/model": {{"files": {{
          "config.json": {{"text": "{{}}"}},
          "tokenizer.json": {{"text": "{{\"model\": 1}}"}},
          "model.safetensors": {{"size": {}, "seed": 7}}{} }} }} }} }})",
      faults, bytes, more));
}

HubSettings HubTest::settings() {
  HubSettings settings;
  settings.endpoint = hub().endpoint();
  settings.cache_dir = cache_;
  settings.connections = 4;
  settings.part_bytes = 64 << 10;
  settings.max_attempts = 4;
  settings.retry_delay_ms = 5;
  settings.connect_timeout_ms = 2000;
  settings.stall_timeout_s = 2;
  return settings;
}

PullResult HubTest::pull(const HubSettings& settings, const PullOptions& options) {
  return HubClient(settings, logger_).pull("org/model", options);
}

std::string HubTest::error_of_pull(const HubSettings& settings, const PullOptions& options) {
  try {
    (void)pull(settings, options);
  } catch (const EnvironmentError& error) {
    return error.what();
  }
  ADD_FAILURE() << "pull() succeeded";
  return {};
}

std::vector<SeenRequest> HubTest::seen(const std::string& server, const std::string& method,
                                       const std::string& part) {
  std::vector<SeenRequest> matching;
  for (SeenRequest& request : hub().log())
    if (request.server == server && request.method == method &&
        request.path.find(part) != std::string::npos)
      matching.push_back(std::move(request));
  return matching;
}

int64_t HubTest::bytes_sent() {
  int64_t sum = 0;
  for (const SeenRequest& request : hub().log()) sum += request.sent;
  return sum;
}

std::vector<std::string> HubTest::leftovers() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(cache_ / "models--org--model" / "blobs", error))
    if (entry.path().filename().string().find("nanoflow") != std::string::npos)
      names.push_back(entry.path().filename().string());
  return names;
}

}  // namespace nanoflow
