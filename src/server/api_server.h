// ApiServer: the OpenAI-compatible API as vLLM extends it. Routes requests; each route is a few
// lines here or a file of its own.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "api/openai_request.h"
#include "api/text_model.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "server/access.h"
#include "server/generation.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/worker_pool.h"

namespace nanoflow {

struct ApiOptions {
  std::vector<std::string> api_keys;         ///< none: open to all
  std::vector<std::string> allowed_origins;  ///< of browser pages elsewhere; "*": all
  /// Names under which the model may be asked for, the first one in answers.
  std::vector<std::string> model_names;
  std::string version;                           ///< of the program
  std::chrono::milliseconds request_timeout{0};  ///< per request, 0: none
  RequestLimits limits{.allow_unknown_fields = true};
};

class ApiServer final : public HttpHandler {
 public:
  /// `logger` must outlive the server. Throws ConfigError (an empty API key).
  ApiServer(ApiOptions options, Logger& logger);
  ~ApiServer() override;

  /// From now on requests are served by `engine`; before, they get 503. Engine, model and http must
  /// live until HttpServer::stop() has returned. Once.
  void attach(HttpServer& http, Engine& engine, const TextModel& model);
  /// A token has been computed: /health says so.
  void set_healthy() { healthy_ = true; }
  /// Figures of the device for /metrics; called by any thread.
  void set_extras(std::function<MetricsExtras()> extras) { extras_ = std::move(extras); }
  /// New generations get 503 from now on.
  void drain() { draining_ = true; }
  /// Stops `http` and lets go of what is left of its requests. The engine must have been shut down.
  void stop(HttpServer& http);
  /// Generations that have not ended.
  [[nodiscard]] int64_t in_flight() const { return in_flight_; }
  /// Ends all of them with `why`; returns before they have ended.
  void cancel_all(const std::string& why);
  [[nodiscard]] const ServerMetrics& metrics() const { return metrics_; }

  void handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override;
  HttpResponse refusal(int status, const std::string& message) override;

 private:
  struct Route;
  struct Serving;
  struct Call;

  /// What is left to do on the connection's own thread.
  using Continuation = std::function<void(const Call& call)>;
  using Work = std::function<Continuation(ApiServer& api, const Call& call)>;

  static const std::vector<Route>& routes();
  void dispatch(const Route& route, Call call);
  void answer(const Call& call, HttpResponse response);

  /// Runs `work` where it holds up no stream, then its continuation.
  void off_thread(WorkerPool& workers, Call call, Work work);
  void run_route(const Route& route, Call call);
  void generate(Call call, Endpoint endpoint);
  [[nodiscard]] Result<Completion> make_completion(const Call& call, Endpoint endpoint);
  void start(const Call& call, Completion completion);
  void log_unknown(const std::vector<std::string>& fields);

  [[nodiscard]] HttpResponse models(const Call& call);
  [[nodiscard]] HttpResponse tokenize(const Call& call);
  [[nodiscard]] HttpResponse detokenize(const Call& call);
  [[nodiscard]] HttpResponse health() const;
  [[nodiscard]] HttpResponse metrics_text() const;

  const ApiOptions options_;
  Logger& logger_;
  SteadyClock clock_;
  const ApiKeys keys_;
  const Cors cors_;
  RequestNames names_;
  ServerMetrics metrics_;
  std::function<MetricsExtras()> extras_;
  std::atomic<RequestId> next_id_{1};
  std::atomic<int64_t> in_flight_{0};
  std::atomic<bool> healthy_{false};
  std::atomic<bool> draining_{false};
  std::mutex unknown_mutex_;
  std::set<std::string> unknown_fields_;  // already logged
  std::unique_ptr<Serving> serving_;
  std::atomic<Serving*> attached_{nullptr};  // serving_, once it is whole
};

}  // namespace nanoflow
