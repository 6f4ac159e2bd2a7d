#include "engine/engine.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "engine/engine_loop.h"

namespace nanoflow {

namespace {

/// What requests are checked against: the runner's limits, narrowed by the operator and the cache.
EngineLimits narrow(EngineLimits limits, int64_t max_model_len, Logger& logger) {
  if (limits.kv_tokens() < 1) {
    throw ConfigError("--kv-cache-gib", "the KV cache holds no token; raise it");
  }
  if (max_model_len > limits.max_model_len) {
    throw ConfigError("--max-model-len", fmt::format("is {}, but the model's positions end at {}",
                                                     max_model_len, limits.max_model_len));
  }
  if (max_model_len > limits.kv_tokens()) {
    throw ConfigError("--max-model-len",
                      fmt::format("is {}, but the KV cache holds {} tokens; lower --max-model-len "
                                  "or raise --kv-cache-gib",
                                  max_model_len, limits.kv_tokens()));
  }
  if (max_model_len > 0) {
    limits.max_model_len = max_model_len;
  } else if (limits.max_model_len > limits.kv_tokens()) {
    logger.warning("max_model_len is {} instead of the model's {}: the KV cache holds no more",
                   limits.kv_tokens(), limits.max_model_len);
    limits.max_model_len = limits.kv_tokens();
  }
  return limits;
}

}  // namespace

Engine::Engine(const EngineConfig& config, std::unique_ptr<StepRunner> runner, const Clock& clock,
               Logger& logger) {
  config.validate();
  const EngineLimits limits = narrow(runner->limits(), config.max_model_len, logger);
  impl_ = std::make_unique<Impl>(config, limits, std::move(runner), clock, logger);
}

Engine::~Engine() = default;

Result<RequestHandle> Engine::submit(Request request, std::shared_ptr<EventQueue> events) {
  return impl_->submit(std::move(request), std::move(events));
}

bool Engine::wait_for_room(std::chrono::nanoseconds timeout) {
  return impl_->wait_for_room(timeout);
}

void Engine::cancel(RequestId id) {
  impl_->cancel(id);
}

void Engine::drain() {
  impl_->drain();
}

void Engine::shutdown() {
  impl_->shutdown();
}

const EngineLimits& Engine::limits() const {
  return impl_->limits();
}

EngineStats Engine::stats() const {
  return impl_->stats();
}

bool Engine::healthy() const {
  return impl_->failure().empty();
}

std::string Engine::failure() const {
  return impl_->failure();
}

}  // namespace nanoflow
