#include "server/api_server.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "api/completion.h"
#include "api/structure_fields.h"
#include "server/answers.h"
#include "server/openapi.h"
#include "server/page.h"
#include "server/text_routes.h"

namespace nanoflow {
namespace {

// Parsing and tokenising run at some 10 MB/s; a larger body would hold up the streams of its thread
// for more than a millisecond or two.
constexpr size_t kInlineBytes = 16 << 10;
constexpr size_t kWorkers = 2;
/// As many as compile at the same time (GrammarCompilerOptions::max_compiling).
constexpr size_t kCompilers = 4;
constexpr size_t kMaxWaitingBodies = 256;
constexpr const char* kModelsPath = "/v1/models";
// Unknown fields are logged once each; an attacker's are not remembered without end.
constexpr size_t kMaxLoggedFields = 100;
constexpr size_t kMaxLoggedName = 64;

HttpResponse engine_gone(const std::string& failure) {
  return error_answer(503, "the engine has failed: " + failure);
}

}  // namespace

/// What a path means. A path that ends in "/" stands for all that begin with it.
struct ApiServer::Route {
  std::string_view method;
  std::string_view path;
  bool guarded = true;      ///< needs an API key where there are keys
  bool needs_model = true;  ///< 503 while it is loading
  /// Either answers at once, or keeps the call and answers later.
  HttpResponse (*respond)(ApiServer& api, const Call& call) = nullptr;
  void (*serve)(ApiServer& api, Call call) = nullptr;

  [[nodiscard]] bool matches(std::string_view asked) const {
    return path.size() > 1 && path.ends_with('/') ? asked.starts_with(path) : asked == path;
  }
};

/// What requests need once there is a model. Its parts live as long as the server.
struct ApiServer::Serving {
  Engine& engine;
  const TextModel& model;
  std::vector<std::string> names;
  int64_t created_s;
  std::vector<std::unique_ptr<EventPump>> pumps;  // one per server thread
  WorkerPool workers{kWorkers, kMaxWaitingBodies};
  WorkerPool compilers{kCompilers, kMaxWaitingBodies};  // what may wait for a grammar
};

/// A request and where its answer goes.
struct ApiServer::Call {
  HttpRequest request;
  std::shared_ptr<HttpExchange> exchange;  // shared with its connection
  std::vector<HttpHeader> headers;         // of the answer
  std::string id;
  int64_t arrival_ns = 0;
  Serving* serving = nullptr;  // nullptr: still loading
};

const std::vector<ApiServer::Route>& ApiServer::routes() {
  // The page works before there is a model, and asks for a key itself.
  constexpr auto page_route = [](std::string_view path) {
    return Route{
        .method = "GET",
        .path = path,
        .guarded = false,
        .needs_model = false,
        .respond = [](ApiServer&, const Call& call) { return page_file(call.request.path); }};
  };
  static const std::vector<Route> routes = {
      page_route("/"),
      page_route("/page.css"),
      page_route("/page.js"),
      page_route("/dashboard.js"),
      {.method = "POST",
       .path = "/v1/completions",
       .serve = [](ApiServer& api,
                   Call call) { api.generate(std::move(call), Endpoint::kCompletions); }},
      {.method = "POST",
       .path = "/v1/chat/completions",
       .serve = [](ApiServer& api,
                   Call call) { api.generate(std::move(call), Endpoint::kChatCompletions); }},
      {.method = "GET",
       .path = kModelsPath,
       .respond = [](ApiServer& api, const Call& call) { return api.models(call); }},
      {.method = "GET",
       .path = "/v1/models/",
       .respond = [](ApiServer& api, const Call& call) { return api.models(call); }},
      {.method = "POST",
       .path = "/tokenize",
       .respond = [](ApiServer& api, const Call& call) { return api.tokenize(call); }},
      {.method = "POST",
       .path = "/detokenize",
       .respond = [](ApiServer& api, const Call& call) { return api.detokenize(call); }},
      {.method = "GET",
       .path = "/tokenizer_info",
       .respond = [](ApiServer&,
                     const Call& call) { return tokenizer_info_answer(call.serving->model); }},
      {.method = "GET",
       .path = "/health",
       .guarded = false,
       .needs_model = false,
       .respond = [](ApiServer& api, const Call&) { return api.health(); }},
      {.method = "GET",
       .path = "/ping",
       .guarded = false,
       .needs_model = false,
       .respond = [](ApiServer& api, const Call&) { return api.health(); }},
      {.method = "GET",
       .path = "/metrics",
       .guarded = false,
       .respond = [](ApiServer& api, const Call&) { return api.metrics_text(); }},
      {.method = "GET",
       .path = "/version",
       .guarded = false,
       .needs_model = false,
       .respond =
           [](ApiServer& api, const Call&) {
             return json_answer(Json::object({{"version", api.options_.version}}));
           }},
      {.method = "GET",
       .path = "/openapi.json",
       .guarded = false,
       .needs_model = false,
       .respond =
           [](ApiServer& api, const Call&) {
             return HttpResponse{.body = openapi_document(api.options_.version)};
           }},
      {.method = "GET",
       .path = "/load",
       .needs_model = false,
       .respond =
           [](ApiServer& api, const Call&) {
             return json_answer(Json::object({{"server_load", api.in_flight()}}));
           }},
  };
  return routes;
}

ApiServer::ApiServer(ApiOptions options, Logger& logger)
    : options_(std::move(options)),
      logger_(logger),
      keys_(options_.api_keys),
      cors_(options_.allowed_origins),
      metrics_(options_.model_names.empty() ? "" : options_.model_names.front()) {}

ApiServer::~ApiServer() = default;

void ApiServer::attach(HttpServer& http, Engine& engine, const TextModel& model) {
  const int64_t now_s = std::chrono::duration_cast<std::chrono::seconds>(
                            std::chrono::system_clock::now().time_since_epoch())
                            .count();
  serving_.reset(new Serving{.engine = engine,
                             .model = model,
                             .names = options_.model_names,
                             .created_s = now_s,
                             .pumps = {}});
  if (serving_->names.empty()) serving_->names.push_back(model.name);
  for (size_t i = 0; i < http.num_threads(); ++i)
    serving_->pumps.push_back(std::make_unique<EventPump>(http.thread(i)));
  attached_ = serving_.get();
}

void ApiServer::cancel_all(const std::string& why) {
  if (attached_ == nullptr) return;
  for (const std::unique_ptr<EventPump>& pump : serving_->pumps)
    pump->thread().post([pump = pump.get(), why] {
      pump->cancel_all({ErrorCode::kUnavailable, why, {}});
    });
}

void ApiServer::stop(HttpServer& http) {
  if (serving_ != nullptr) {
    serving_->workers.stop();
    serving_->compilers.stop();
  }
  http.stop();
  if (serving_ != nullptr) serving_->pumps.clear();
}

void ApiServer::handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
  Call call{.request = std::move(request),
            .exchange = std::move(exchange),
            .arrival_ns = clock_.now_ns(),
            .serving = attached_};
  call.id = names_.of(call.request);
  call.headers.push_back({"X-Request-Id", call.id});
  cors_.add_headers(call.request, call.headers);
  if (call.request.method == "OPTIONS") return answer(call, cors_.preflight(call.request));
  std::string_view method = call.request.method;
  if (method == "HEAD") method = "GET";
  std::string others;  // methods that the path has
  for (const Route& route : routes()) {
    if (!route.matches(call.request.path)) continue;
    if (route.method == method) return dispatch(route, std::move(call));
    others += others.empty() ? "" : ", ";
    others += route.method;
  }
  if (others.empty())
    return answer(call, error_answer(404, fmt::format("there is no {}", call.request.path)));
  HttpResponse response = error_answer(
      405, fmt::format("{} takes {}, not {}", call.request.path, others, call.request.method));
  response.headers.push_back({"Allow", others});
  answer(call, std::move(response));
}

void ApiServer::dispatch(const Route& route, Call call) {
  if (route.guarded && !keys_.admits(call.request)) {
    HttpResponse response = error_answer(
        401, "this server needs an API key: \"Authorization: Bearer KEY\"", {}, "invalid_api_key");
    response.headers.push_back({"WWW-Authenticate", "Bearer"});
    return answer(call, std::move(response));
  }
  if (route.needs_model && call.serving == nullptr)
    return answer(call, error_answer(503, "the model is still loading; try again later"));
  if (route.serve != nullptr) return route.serve(*this, std::move(call));
  run_route(route, std::move(call));
}

void ApiServer::answer(const Call& call, HttpResponse response) {
  metrics_.http_answer(response.status);
  if (response.status >= 400)
    logger_.debug("{}: {} {} from {}: {}", call.id, call.request.method, call.request.path,
                  call.request.peer, response.status);
  response.headers.insert(response.headers.end(), call.headers.begin(), call.headers.end());
  call.exchange->respond(std::move(response));
}

HttpResponse ApiServer::refusal(int status, const std::string& message) {
  metrics_.http_answer(status);
  return error_answer(status, message);
}

void ApiServer::run_route(const Route& route, Call call) {
  if (call.request.body.size() <= kInlineBytes) return answer(call, route.respond(*this, call));
  WorkerPool& workers = call.serving->workers;
  off_thread(workers, std::move(call), [&route](ApiServer& api, const Call& kept) -> Continuation {
    // Shared by the copies of the continuation.
    const auto response = std::make_shared<HttpResponse>(route.respond(api, kept));
    return [&api, response](const Call& back) { api.answer(back, std::move(*response)); };
  });
}

void ApiServer::generate(Call call, Endpoint endpoint) {
  Serving& serving = *call.serving;
  if (draining_) return answer(call, error_answer(503, "the server is shutting down"));
  if (!serving.engine.healthy()) return answer(call, engine_gone(serving.engine.failure()));
  const auto work = [endpoint](ApiServer& api, const Call& kept) -> Continuation {
    const auto completion =
        std::make_shared<Result<Completion>>(api.make_completion(kept, endpoint));
    return [&api, completion](const Call& back) {
      if (!completion->has_value()) return api.answer(back, error_answer(completion->error()));
      api.start(back, std::move(**completion));
    };
  };
  const bool structured = may_ask_for_structure(call.request.body);
  if (call.request.body.size() <= kInlineBytes && !structured) return work(*this, call)(call);
  // A grammar may take seconds: large bodies without one must not wait for it.
  off_thread(structured ? serving.compilers : serving.workers, std::move(call), work);
}

void ApiServer::off_thread(WorkerPool& workers, Call call, Work work) {
  // Shared by the copies of the task; the last one must go on the connection's own thread.
  auto kept = std::make_shared<Call>(std::move(call));
  const bool queued = workers.submit([this, kept, work = std::move(work)]() mutable {
    Continuation then = work(*this, *kept);
    HttpThread& thread = kept->exchange->thread();
    thread.post([kept = std::move(kept), then = std::move(then)] { then(*kept); });
  });
  if (!queued)
    answer(*kept, error_answer(503, "too many large or structured requests wait already"));
}

Result<Completion> ApiServer::make_completion(const Call& call, Endpoint endpoint) {
  const Result<Json> body = parse_json(call.request.body);
  if (!body.has_value()) return tl::unexpected(body.error());
  const Serving& serving = *call.serving;
  Result<OpenAiRequest> request =
      parse_openai_request(endpoint, *body, serving.model.defaults, options_.limits);
  if (!request.has_value()) return tl::unexpected(request.error());
  if (!request->model.empty() &&
      std::find(serving.names.begin(), serving.names.end(), request->model) == serving.names.end())
    return fail(ErrorCode::kNotFound,
                fmt::format("there is no model \"{}\"; this server has {}", request->model,
                            fmt::join(serving.names, ", ")),
                "model");
  log_unknown(request->unknown_fields);
  const bool chat = endpoint == Endpoint::kChatCompletions;
  const auto num_choices = static_cast<uint64_t>(request->n) * (chat ? 1 : request->prompts.size());
  const RequestId first = next_id_.fetch_add(num_choices);
  return Completion::create(serving.model, std::move(*request),
                            fmt::format("{}-{}", chat ? "chatcmpl" : "cmpl", call.id), first);
}

void ApiServer::start(const Call& call, Completion completion) {
  Serving& serving = *call.serving;
  EventPump& pump = *serving.pumps[call.exchange->thread().index()];
  const auto generation = std::make_shared<Generation>(
      GenerationContext{serving.engine, metrics_, logger_, clock_, in_flight_}, pump, call.exchange,
      std::move(completion), call.headers, call.arrival_ns);
  generation->start(options_.request_timeout);
}

void ApiServer::log_unknown(const std::vector<std::string>& fields) {
  if (fields.empty()) return;
  const std::lock_guard lock(unknown_mutex_);
  for (const std::string& field : fields) {
    if (unknown_fields_.size() >= kMaxLoggedFields) return;
    const std::string shown = Json(field.substr(0, kMaxLoggedName)).dump();
    if (unknown_fields_.insert(shown).second)
      logger_.info("a request has the unknown field {}, which changes nothing", shown);
  }
}

HttpResponse ApiServer::models(const Call& call) {
  std::string_view wanted = call.request.path;
  wanted.remove_prefix(std::min(wanted.size(), std::string_view(kModelsPath).size() + 1));
  const Serving& serving = *call.serving;
  Json list{Json::Array{}};
  for (const std::string& name : serving.names) {
    Json model = model_card(name, serving.names.front(), serving.created_s,
                            serving.model.limits.max_model_len);
    if (wanted == name) return json_answer(model);
    list.push_back(std::move(model));
  }
  if (wanted.empty())
    return json_answer(Json::object({{"object", "list"}, {"data", std::move(list)}}));
  return error_answer(404, fmt::format("there is no model \"{}\"", wanted), "model");
}

HttpResponse ApiServer::tokenize(const Call& call) {
  return tokenize_answer(call.serving->model, call.request.body);
}

HttpResponse ApiServer::detokenize(const Call& call) {
  return detokenize_answer(call.serving->model, call.request.body);
}

HttpResponse ApiServer::health() const {
  const Serving* serving = attached_;
  if (serving == nullptr || !healthy_) {
    if (serving != nullptr && !serving->engine.healthy())
      return engine_gone(serving->engine.failure());
    return error_answer(503, "the model is still loading");
  }
  if (!serving->engine.healthy()) return engine_gone(serving->engine.failure());
  if (draining_) return error_answer(503, "the server is shutting down");
  return json_answer(Json::object({{"status", "ok"}}));
}

HttpResponse ApiServer::metrics_text() const {
  const Serving& serving = *attached_;
  const MetricsExtras extras = extras_ ? extras_() : MetricsExtras{};
  return {.content_type = "text/plain; version=0.0.4; charset=utf-8",
          .body = metrics_.prometheus(serving.engine.stats(), serving.model.limits, extras)};
}

}  // namespace nanoflow
