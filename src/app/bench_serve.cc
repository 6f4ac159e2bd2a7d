// nanoflow bench serve: a load test of any OpenAI-compatible server, with the options, the report
// and the result file of vLLM's command of that name.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "api/workload.h"
#include "app/commands.h"
#include "app/options.h"
#include "app/signals.h"
#include "app/standard_output.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mmap.h"
#include "base/progress.h"
#include "client/arrivals.h"
#include "client/load_client.h"
#include "client/load_requests.h"
#include "client/load_result.h"
#include "client/stream_event.h"

namespace nanoflow {
namespace {

constexpr size_t kShownErrors = 3;
constexpr double kAnswerTimeout = 60;  // seconds, of a GET while the server is looked for
constexpr std::chrono::milliseconds kReadyPoll{500};

struct BenchServeOptions {
  std::string backend = "openai";
  std::string base_url;
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  std::string endpoint;
  LoadRequestOptions requests;
  double request_rate = HUGE_VAL;
  double burstiness = 1;
  int64_t max_concurrency = 0;
  int64_t num_warmups = 0;
  double ready_timeout_s = 600;
  std::string extra_body;
  std::vector<std::string> headers;
  std::vector<std::string> goodput;
  ReportOptions report;
  bool save_result = false;
  bool save_detailed = false;
  bool append_result = false;
  std::string result_dir;
  std::string result_filename;
  std::vector<std::string> metadata;
  std::string label;
  bool no_progress = false;
};

/// "a<separator>b" as a pair. Throws ConfigError naming the option.
std::pair<std::string, std::string> split(const std::string& text, char separator,
                                          const char* option) {
  const size_t at = text.find(separator);
  if (at == std::string::npos || at == 0)
    throw ConfigError(option, fmt::format("\"{}\" is no NAME{}VALUE", text, separator));
  return {text.substr(0, at), text.substr(at + 1)};
}

std::vector<std::pair<std::string, double>> parse_goodput(const std::vector<std::string>& limits) {
  std::vector<std::pair<std::string, double>> parsed;
  for (const std::string& limit : limits) {
    const auto [name, text] = split(limit, ':', "--goodput");
    double value = 0;
    if (!CLI::detail::lexical_cast(text, value) || !(value >= 0) ||
        (name != "ttft" && name != "tpot" && name != "e2el"))
      throw ConfigError("--goodput",
                        fmt::format("\"{}\" is none of ttft:MS, tpot:MS, e2el:MS", limit));
    parsed.emplace_back(name, value);
  }
  return parsed;
}

LoadTarget make_target(const BenchServeOptions& o) {
  const bool is_v6 = o.host.find(':') != std::string::npos;
  LoadTarget target =
      parse_target(!o.base_url.empty()
                       ? o.base_url
                       : fmt::format("http://{}:{}", is_v6 ? "[" + o.host + "]" : o.host, o.port),
                   o.base_url.empty() ? "--host" : "--base-url");
  for (const std::string& header : o.headers) {
    if (header.find_first_of("\r\n") != std::string::npos)
      throw ConfigError("--header", "a header is one line");
    target.headers.push_back(split(header, '=', "--header"));
  }
  if (const char* key = std::getenv("OPENAI_API_KEY"); key != nullptr && *key != '\0')
    target.headers.emplace_back("Authorization", fmt::format("Bearer {}", key));
  return target;
}

/// Whether the same request may well be served later: a server that loads its model says 503.
bool may_pass(int http_status) {
  return http_status == 0 || http_status == 429 || http_status >= 500;
}

/// Id of the first model of /v1/models. Throws NetworkError where it may come yet, else
/// ConfigError.
std::string first_model(const LoadTarget& target) {
  const PlainAnswer answer = get(target, "/v1/models", kAnswerTimeout);
  const Result<Json> json = parse_json(answer.body);
  const Json* data = json.has_value() ? json->find("data") : nullptr;
  if (answer.status == 200 && data != nullptr && data->is_array() && !data->as_array().empty()) {
    const Json* id = data->as_array().front().find("id");
    if (id != nullptr && id->is_string()) return id->as_string();
  }
  const std::string failure = fmt::format("{}/v1/models answers {}: {}", target.url(),
                                          answer.status, error_message(answer.body));
  if (may_pass(answer.status)) throw NetworkError(failure);
  throw ConfigError("--model", "is not given, and " + failure);
}

/// Repeats `attempt` (which says why it failed, or "") until it succeeds. Throws NetworkError after
/// the time that the options allow.
template <typename Attempt>
void wait_until_ready(const BenchServeOptions& o, const SteadyClock& clock, double start_s,
                      Attempt attempt) {
  bool told = false;
  while (!interrupted()) {
    const std::string failure = attempt();
    if (failure.empty()) return;
    if (clock.now_s() - start_s >= o.ready_timeout_s) throw NetworkError(failure);
    if (!told) fmt::print(stderr, "waiting for the server: {}\n", failure);
    told = true;
    std::this_thread::sleep_for(kReadyPoll);
  }
}

std::string try_to(const std::function<void()>& action) {
  try {
    action();
  } catch (const NetworkError& error) {
    return error.what();
  }
  return {};
}

/// Each stream needs a file descriptor; the usual soft limit is 1,024.
void allow_many_connections() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);  // refused: connections fail and are counted
}

void print_errors(const LoadResult& result) {
  std::map<std::string, int64_t> counts;
  for (const RequestRecord& record : result.records)
    if (record.is_finished && !record.error.empty()) ++counts[record.error];
  std::vector<std::pair<std::string, int64_t>> errors(counts.begin(), counts.end());
  std::stable_sort(errors.begin(), errors.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  for (size_t i = 0; i < std::min(errors.size(), kShownErrors); ++i)
    fmt::print(stderr, "{} requests failed: {}\n", errors[i].second, errors[i].first);
  if (errors.size() > kShownErrors)
    fmt::print(stderr, "and {} other kinds of failures\n", errors.size() - kShownErrors);
}

std::filesystem::path result_path(const BenchServeOptions& o, const std::string& date) {
  std::string name = o.result_filename;
  if (name.empty()) {
    const std::string model = o.requests.model.substr(o.requests.model.rfind('/') + 1);
    const std::string limit =
        o.max_concurrency > 0 ? fmt::format("-concurrency{}", o.max_concurrency) : "";
    name = fmt::format("{}-{:g}qps{}-{}-{}.json", o.label.empty() ? o.backend : o.label,
                       o.request_rate, limit, model, date);
  }
  return std::filesystem::path(o.result_dir) / name;
}

Json rate_json(double rate) {
  return std::isinf(rate) ? Json("inf") : Json(rate);
}

void save(const BenchServeOptions& o, const std::filesystem::path& path, const std::string& date,
          const LoadResult& result) {
  Json json = Json::object({{"date", date},
                            {"endpoint_type", o.backend},
                            {"backend", o.backend},
                            {"label", o.label.empty() ? Json() : Json(o.label)},
                            {"model_id", o.requests.model},
                            {"num_prompts", o.requests.num_prompts}});
  for (const std::string& pair : o.metadata) {
    const auto [name, value] = split(pair, '=', "--metadata");
    json.set(name, value);
  }
  json.set("request_rate", rate_json(o.request_rate));
  json.set("burstiness", o.burstiness);
  json.set("max_concurrency", o.max_concurrency > 0 ? Json(o.max_concurrency) : Json());
  const Json figures = result_json(result, o.report, o.save_detailed);
  for (const auto& [name, value] : figures.as_object()) json.set(name, value);
  std::string text;
  if (o.append_result && file_exists(path)) text = read_file(path) + "\n";
  write_file_atomically(path, text + json.dump());
  fmt::print(stderr, "result written to {}\n", path.string());
}

/// What the options say together. Throws ConfigError.
void complete(BenchServeOptions& o) {
  o.report.goodput_ms = parse_goodput(o.goodput);
  o.report.request_rate = o.request_rate;
  o.report.max_concurrency = o.max_concurrency;
  o.requests.is_chat = o.backend == "openai-chat" || o.endpoint.ends_with("/chat/completions");
  if (o.endpoint.empty())
    o.endpoint = o.requests.is_chat ? "/v1/chat/completions" : "/v1/completions";
  if (!o.endpoint.starts_with('/') || o.endpoint.find_first_of(" \r\n") != std::string::npos)
    throw ConfigError("--endpoint", "must be a path like /v1/completions");
  for (const std::string& pair : o.metadata) (void)split(pair, '=', "--metadata");
  if (o.extra_body.empty()) return;
  Result<Json> extra = parse_json(o.extra_body);
  if (!extra.has_value() || !extra->is_object())
    throw ConfigError("--extra-body",
                      extra.has_value() ? "must be a JSON object" : extra.error().message);
  o.requests.extra_body = std::move(*extra);
}

/// Waits for the server, then sends the requests that are not measured.
void prepare(const BenchServeOptions& o, const LoadTarget& target,
             const std::vector<LoadRequest>& requests, const SteadyClock& clock, double start_s) {
  const auto send = [&](int64_t count) {
    std::vector<LoadRequest> few;
    for (int64_t i = 0; i < count; ++i)
      few.push_back(requests[static_cast<size_t>(i) % requests.size()]);
    return run_load(target, few, {o.endpoint, o.max_concurrency}, interrupted(), [](int64_t) {});
  };
  if (o.ready_timeout_s > 0)
    wait_until_ready(o, clock, start_s, [&] {
      const RequestRecord record = send(1).records[0];
      if (!record.error.empty() && !may_pass(record.http_status)) throw NetworkError(record.error);
      return record.error;
    });
  if (o.num_warmups > 0) (void)send(o.num_warmups);
}

int run(BenchServeOptions o) {
  complete(o);
  allow_many_connections();
  const LoadTarget target = make_target(o);
  const SteadyClock clock;
  const double start_s = clock.now_s();
  const std::string date = fmt::format("{:%Y%m%d-%H%M%S}", fmt::localtime(std::time(nullptr)));
  if (o.requests.model.empty())
    wait_until_ready(o, clock, start_s,
                     [&] { return try_to([&] { o.requests.model = first_model(target); }); });
  const bool saves = o.save_result || o.append_result || o.save_detailed;
  const std::filesystem::path path = result_path(o, date);
  if (saves) require_writable(path);  // not after minutes of work
  std::vector<LoadRequest> requests = make_load_requests(o.requests);
  prepare(o, target, requests, clock, start_s);
  const auto count = static_cast<int64_t>(requests.size());
  const std::vector<double> arrivals =
      arrival_times(count, o.request_rate, o.burstiness, o.requests.seed);
  for (size_t i = 0; i < requests.size(); ++i) requests[i].arrival_s = arrivals[i];

  std::optional<ProgressBar> bar;
  if (!o.no_progress) bar.emplace("Requests", count, ProgressBar::Unit::kCount, stderr);
  const LoadResult result = run_load(target, requests, {o.endpoint, o.max_concurrency},
                                     interrupted(), [&](int64_t ended) {
                                       if (bar.has_value()) bar->set(ended);
                                     });
  if (bar.has_value()) bar->finish();
  print_errors(result);
  write_stdout(result_block(result, o.report));
  if (saves) save(o, path, date, result);
  if (interrupted()) return kInterruptedExit;
  const bool served =
      std::any_of(result.records.begin(), result.records.end(),
                  [](const RequestRecord& record) { return record.is_completed(); });
  return served ? 0 : 1;
}

const auto kCounts = CLI::Range(int64_t{1}, kMaxWorkloadRequests);

void add_server_options(CLI::App& sub, BenchServeOptions& o) {
  const char* group = "Server";
  sub.add_option("--backend", o.backend, "Which API; openai and vllm: completions")
      ->check(CLI::IsMember({"openai", "vllm", "openai-chat"}))
      ->capture_default_str()
      ->group(group);
  sub.add_option("--base-url", o.base_url, "http[s]://host:port, instead of --host and --port")
      ->group(group);
  sub.add_option("--host", o.host)->capture_default_str()->group(group);
  sub.add_option("--port", o.port)->capture_default_str()->group(group);
  sub.add_option("--endpoint", o.endpoint,
                 "Default: /v1/completions, or /v1/chat/completions for openai-chat")
      ->group(group);
  sub.add_option("--model", o.requests.model, "Default: the first that /v1/models names")
      ->group(group);
  sub.add_option("--header", o.headers, "NAME=VALUE to send with every request")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(group);
  sub.add_option("--extra-body", o.extra_body, "JSON object to add to every request")->group(group);
  sub.add_option("--ready-check-timeout-sec", o.ready_timeout_s,
                 "Wait this long for a first request to be served; 0: do not try one")
      ->check(number_between(0, 1e6))
      ->capture_default_str()
      ->group(group);
}

void add_request_options(CLI::App& sub, LoadRequestOptions& o) {
  const char* group = "Requests";
  sub.add_option("--dataset-name", o.dataset,
                 "random; or of a file: trace (CSV of lengths), sharegpt, custom (JSON lines)")
      ->check(CLI::IsMember({"random", "trace", "sharegpt", "custom"}))
      ->capture_default_str()
      ->group(group);
  sub.add_option("--dataset-path", o.path)->check(CLI::ExistingFile)->group(group);
  sub.add_option("--num-prompts", o.num_prompts)
      ->check(kCounts)
      ->capture_default_str()
      ->group(group);
  sub.add_option("--random-input-len", o.input_len, "Tokens")
      ->check(kCounts)
      ->capture_default_str()
      ->group(group);
  sub.add_option("--random-output-len", o.output_len, "Tokens")
      ->check(kCounts)
      ->capture_default_str()
      ->group(group);
  sub.add_option("--random-range-ratio", o.range_ratio,
                 "Lengths vary by this share around the mean")
      ->check(number_between(0, 0.99))
      ->group(group);
  sub.add_option("--custom-output-len,--sharegpt-output-len", o.file_output_len,
                 "Output tokens of items of a file that do not say it")
      ->check(kCounts)
      ->capture_default_str()
      ->group(group);
  sub.add_option("--vocab-size", o.vocab_size, "Random prompts are token ids below this")
      ->check(CLI::Range(int64_t{2}, int64_t{INT32_MAX}))
      ->capture_default_str()
      ->group(group);
  sub.add_flag("--ignore-eos", o.ignore_eos, "Answers are as long as they may")->group(group);
  sub.add_option("--temperature", o.temperature, "Default: the server's")
      ->check(number_between(0, 100))
      ->group(group);
  sub.add_option("--seed", o.seed)->capture_default_str()->group(group);
}

void add_load_options(CLI::App& sub, BenchServeOptions& o) {
  const char* group = "Load";
  sub.add_option("--request-rate", o.request_rate, "Requests per second; inf: all at once")
      ->check(number_between(1e-6, HUGE_VAL))
      ->capture_default_str()
      ->group(group);
  sub.add_option("--burstiness", o.burstiness,
                 "Shape of the gamma distributed gaps; 1: Poisson, above: more even")
      ->check(number_between(0.01, 1e6))
      ->capture_default_str()
      ->group(group);
  sub.add_option("--max-concurrency", o.max_concurrency, "Requests in flight at most")
      ->check(kCounts)
      ->group(group);
  sub.add_option("--num-warmups", o.num_warmups, "Requests beforehand that are not measured")
      ->check(CLI::Range(int64_t{0}, kMaxWorkloadRequests))
      ->group(group);
}

void add_report_options(CLI::App& sub, BenchServeOptions& o) {
  const char* group = "Report";
  sub.add_option("--percentile-metrics", o.report.metrics, "Some of ttft,tpot,itl,e2el")
      ->delimiter(',')
      ->check(CLI::IsMember({"ttft", "tpot", "itl", "e2el"}))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->capture_default_str()
      ->group(group);
  sub.add_option("--metric-percentiles", o.report.percentiles, "Percentiles, as in 50,95,99")
      ->delimiter(',')
      ->check(number_between(0, 100))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->capture_default_str()
      ->group(group);
  sub.add_option("--goodput", o.goodput,
                 "Limits that a good request keeps: ttft:MS tpot:MS e2el:MS")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(group);
  sub.add_flag("--save-result", o.save_result, "Write the figures as JSON")->group(group);
  sub.add_flag("--save-detailed", o.save_detailed, "With those of each request")->group(group);
  sub.add_flag("--append-result", o.append_result, "As another line of the file")->group(group);
  sub.add_option("--result-dir", o.result_dir)->group(group);
  sub.add_option("--result-filename", o.result_filename)->group(group);
  sub.add_option("--metadata", o.metadata, "NAME=VALUE to write into the file")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(group);
  sub.add_option("--label", o.label, "Instead of the backend's name in the file's")->group(group);
  sub.add_flag("--disable-tqdm", o.no_progress, "No progress bar")->group(group);
}

}  // namespace

void add_bench_serve(CLI::App& bench, Command& command) {
  CLI::App* sub =
      bench.add_subcommand("serve", "Load test of an OpenAI-compatible server that is running");
  auto o = std::make_shared<BenchServeOptions>();  // shared by the options and the command they run
  add_server_options(*sub, *o);
  add_request_options(*sub, o->requests);
  add_load_options(*sub, *o);
  add_report_options(*sub, *o);
  sub->footer(
      "Examples:\n"
      "  nanoflow bench serve --port 8000 --num-prompts 200 --request-rate 10 --ignore-eos\n"
      "  nanoflow bench serve --base-url https://llm.example.com --backend openai-chat "
      "--dataset-name sharegpt\n"
      "    --dataset-path sharegpt.json --max-concurrency 64 --save-result\n"
      "An API key is taken from $OPENAI_API_KEY. Exit code: 0 when at least one request was "
      "served, "
      "1 when\n"
      "none was, 2 for wrong usage, 130 after Ctrl-C, which still reports what was measured.");
  sub->callback([o, &command] { command = [o] { return run(*o); }; });
}

}  // namespace nanoflow
