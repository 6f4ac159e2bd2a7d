// nanoflow serve: an OpenAI-compatible server. Listens at once, answers 503 until the model has
// computed a token, and ends in order on SIGTERM or Ctrl-C.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "app/commands.h"
#include "app/default_model.h"
#include "app/device_metrics.h"
#include "app/options.h"
#include "app/serving_stack.h"
#include "app/signals.h"
#include "base/error.h"
#include "server/api_server.h"
#include "server/http.h"
#include "server/log_line.h"
#include "version.h"

namespace nanoflow {
namespace {

using std::chrono::duration;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

struct ServeOptions {
  ModelOptions model;
  HttpOptions http;
  std::vector<std::string> served_names;
  std::vector<std::string> api_keys;
  std::vector<std::string> allowed_origins = {"*"};
  double request_timeout_s = 0;
  double shutdown_timeout_s = 30;
  double max_body_mib = 32;
};

constexpr milliseconds kPoll{50};
constexpr duration<double> kLogEvery{10};
// A supervisor that asks /health every few seconds sees why before the process ends.
constexpr duration<double> kFailureLinger{5};
// For the last bytes of answers that the engine has given up.
constexpr duration<double> kFlush{2};

std::string url_of(const ServeOptions& o, uint16_t port) {
  const std::string host =
      o.http.host.find(':') == std::string::npos ? o.http.host : "[" + o.http.host + "]";
  return fmt::format("{}://{}:{}", o.http.tls_certificate.empty() ? "http" : "https", host, port);
}

/// Computes one token. Throws EnvironmentError when the engine cannot.
void compute_a_token(Engine& engine) {
  const Result<RequestHandle> handle =
      engine.submit({.prompt = {0}, .sampling = {.max_tokens = 1, .ignore_eos = true}});
  if (!handle.has_value()) throw EnvironmentError(handle.error().message);
  while (!interrupted()) {
    const std::optional<TokenEvent> event = handle->events->pop(kPoll);
    if (!event.has_value() || !event->finish.has_value()) continue;
    if (*event->finish == FinishReason::kError) throw EnvironmentError(event->error);
    return;
  }
}

/// Waits until `done`, at most `longest`; false: it took too long.
template <typename Condition>
bool wait_until(Condition done, duration<double> longest) {
  const auto end = steady_clock::now() + longest;
  while (!done()) {
    if (steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

/// Returns when a signal has come or the engine has failed; logs what happens meanwhile.
void watch(const Engine& engine, DeviceMetrics& device, Logger& logger) {
  EngineStats before = engine.stats();
  auto last = steady_clock::now();
  while (!interrupted() && engine.healthy()) {
    std::this_thread::sleep_for(kPoll);
    const duration<double> passed = steady_clock::now() - last;
    if (passed < kLogEvery) continue;
    device.poll();
    const EngineStats now = engine.stats();
    const std::string line = activity_line(before, now, passed.count());
    if (!line.empty()) logger.info("{}", line);
    before = now;
    last = steady_clock::now();
  }
}

/// Ends what uses the engine before the engine goes, also when an exception ends the program.
class Attachment {
 public:
  Attachment(ApiServer& api, HttpServer& http, ServingStack& stack)
      : api_(api), http_(http), engine_(stack.engine()) {
    api_.attach(http_, engine_, stack.text());
  }
  ~Attachment() {
    engine_.shutdown();
    api_.stop(http_);
  }
  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;

 private:
  ApiServer& api_;
  HttpServer& http_;
  Engine& engine_;
};

/// Serves until a signal comes or the engine fails; the exit code.
int serve_until_the_end(const ServeOptions& o, ApiServer& api, HttpServer& http, Engine& engine,
                        DeviceMetrics& device, Logger& logger) {
  watch(engine, device, logger);
  const auto idle = [&] { return api.in_flight() == 0; };
  const bool failed = !engine.healthy();
  if (failed) {
    logger.error("the engine has failed and this process ends: {}", engine.failure());
    std::this_thread::sleep_for(kFailureLinger);
  } else {
    logger.info("shutting down: {} requests may take {} s to end", api.in_flight(),
                o.shutdown_timeout_s);
  }
  api.drain();
  http.drain();
  if (!failed && !wait_until(idle, duration<double>(o.shutdown_timeout_s)))
    logger.warning("{} requests have not ended in time and are cancelled", api.in_flight());
  api.cancel_all("the server is shutting down");
  (void)wait_until(idle, kFlush);
  return failed ? 1 : 0;
}

int run(const ServeOptions& options) {
  ServeOptions o = options;
  if (o.model.model.empty()) o.model.model = default_model();
  o.http.max_body_bytes = static_cast<int64_t>(o.max_body_mib * (1 << 20));
  if (o.served_names.empty()) o.served_names = {served_model_name(o.model)};
  o.model.served_name = o.served_names.front();
  Logger logger(o.model.verbose ? LogLevel::kDebug : LogLevel::kInfo);
  ApiServer api({.api_keys = o.api_keys,
                 .allowed_origins = o.allowed_origins,
                 .model_names = o.served_names,
                 .version = kVersion,
                 .request_timeout = milliseconds(static_cast<int64_t>(o.request_timeout_s * 1e3))},
                logger);
  HttpServer http(o.http, api, logger);
  http.start();
  logger.info("listening on {}; /health answers 503 while the model is loading",
              url_of(o, http.port()));
  ServingStack stack = ServingStack::load(o.model);
  DeviceMetrics device(stack);
  api.set_extras([&http, &device] {
    device.poll();
    MetricsExtras extras{.http = http.stats()};
    device.add_to(extras);
    return extras;
  });
  const Attachment attachment(api, http, stack);
  compute_a_token(stack.engine());
  if (!interrupted()) api.set_healthy();
  fmt::print(stderr, "  {:<10}{}{}\n", "serving", url_of(o, http.port()),
             o.api_keys.empty() ? "" : " (API key needed)");
  return serve_until_the_end(o, api, http, stack.engine(), device, logger);
}

void add_measurement_options(CLI::App& sub, ModelOptions& o) {
  sub.add_option(
         "--null-step-us", o.null_step_us,
         "Compute nothing: steps take this many microseconds and tokens follow from a rule. "
         "Measures the server without its model; answers are gibberish")
      ->check(CLI::Range(int64_t{0}, int64_t{60'000'000}))
      ->group("Measurement");
}

void add_http_options(CLI::App& sub, ServeOptions& o) {
  const char* group = "Server";
  sub.add_option("--host", o.http.host, "Address or name to listen on")
      ->capture_default_str()
      ->group(group);
  sub.add_option("--port", o.http.port, "0: any free one")->capture_default_str()->group(group);
  sub.add_option("--served-model-name", o.served_names,
                 "Names for the model in requests, the first one also in answers; default: its own")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(group);
  sub.add_option("--api-key", o.api_keys,
                 "Requests must bring one of these as \"Authorization: Bearer KEY\"")
      ->envname("NANOFLOW_API_KEY")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(group);
  sub.add_option("--allowed-origins", o.allowed_origins,
                 "Origins whose browser pages may read answers; *: all")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->capture_default_str()
      ->group(group);
  CLI::Option* certificate =
      sub.add_option("--ssl-certfile", o.http.tls_certificate, "PEM chain: serve https")
          ->group(group);
  CLI::Option* key =
      sub.add_option("--ssl-keyfile", o.http.tls_key, "Its private key")->group(group);
  certificate->needs(key);
  key->needs(certificate);
  sub.add_option("--http-threads", o.http.num_threads, "Threads that serve connections")
      ->check(CLI::Range(1, 64))
      ->capture_default_str()
      ->group(group);
  sub.add_option("--max-connections", o.http.max_connections, "More are answered with 503")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str()
      ->group(group);
  o.model.max_queue_size = EngineConfig().max_queue_size;
  sub.add_option("--max-queue-size", o.model.max_queue_size,
                 "Requests that may wait for a place among those that run; more get 503")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str()
      ->group(group);
  sub.add_option("--max-body-mib", o.max_body_mib, "Larger requests get 413")
      ->check(number_between(0.001, 1024))
      ->capture_default_str()
      ->group(group);
  sub.add_option("--timed-step-interval", o.model.timed_step_interval,
                 "Measure the operations of one step in this many for /metrics; 0: of none")
      ->check(CLI::Range(int64_t{0}, int64_t{INT32_MAX}))
      ->capture_default_str()
      ->group(group);
  sub.add_option("--request-timeout", o.request_timeout_s,
                 "Seconds after which a request is given up with 504; 0: never")
      ->check(number_between(0, 1e6))
      ->capture_default_str()
      ->group(group);
  sub.add_option("--shutdown-timeout", o.shutdown_timeout_s,
                 "Seconds that running requests may take to end after SIGTERM")
      ->check(number_between(0, 1e6))
      ->capture_default_str()
      ->group(group);
}

}  // namespace

void add_serve(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("serve", "Serve the OpenAI API over HTTP");
  auto o = std::make_shared<ServeOptions>();  // shared by the options and the command they run
  add_http_options(*sub, *o);
  add_model_options(*sub, o->model);
  add_skip_tokenizer_option(*sub, o->model);
  add_measurement_options(*sub, o->model);
  sub->footer(
      "Examples:\n"
      "  nanoflow serve --model ./Llama-3-8B-Instruct --port 8000\n"
      "  nanoflow serve --model model.gguf --host 127.0.0.1 --api-key secret\n"
      "  curl http://localhost:8000/v1/completions -d '{\"prompt\": \"Hello\", \"max_tokens\": "
      "16}'\n"
      "Without --model the small default model is served. Exit code: 0 after SIGTERM or Ctrl-C, 1 "
      "when\n"
      "the engine fails or something it needs is missing, 2 for wrong usage.");
  sub->callback([o, &command] { command = [o] { return run(*o); }; });
}

}  // namespace nanoflow
