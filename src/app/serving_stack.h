// ServingStack: a model made ready to serve, from what the operator said. The one place where parts
// are put together; it decides nothing that EngineConfig, the checkpoint or the backend decide.
#pragma once

#include <filesystem>
#include <memory>

#include "api/text_model.h"
#include "app/device_choice.h"
#include "app/options.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/config.h"
#include "engine/engine.h"
#include "engine/step_runner.h"
#include "model/config.h"
#include "ops/backend.h"
#include "ops/busy_times.h"

namespace nanoflow {

/// A folder or .gguf file for what the operator named; a hub id is taken from the cache or
/// downloaded. Throws ConfigError when it is nothing of these, NetworkError when a download fails.
std::filesystem::path resolve_model(const ModelOptions& options);

/// The model's name in answers: its hub id, or that of its folder or file. Throws as resolve_model
/// does where the model is a folder.
std::string served_model_name(const ModelOptions& options);

/// DType of "bfloat16", "float16", "float32"; nullopt for "auto".
std::optional<DType> parse_dtype(const std::string& name);

/// What the operator did not say is chosen for `device`. Throws ConfigError naming the option.
EngineConfig make_engine_config(const ModelOptions& options, const DeviceChoice& device);

class ServingStack {
 public:
  /// Loads everything and prints the start-up summary on stderr. Throws EnvironmentError.
  static ServingStack load(const ModelOptions& options);

  [[nodiscard]] Engine& engine() { return *engine_; }
  [[nodiscard]] const TextModel& text() const { return *text_; }
  [[nodiscard]] const EngineConfig& engine_config() const { return engine_config_; }
  [[nodiscard]] const ModelConfig& model_config() const { return model_config_; }
  /// The device of rank 0 as it was at start.
  [[nodiscard]] const DeviceInfo& device() const { return device_; }
  /// Where rank 0's device time went, if ModelOptions::timed_step_interval asked for it.
  [[nodiscard]] BusySnapshot busy() const { return busy_->snapshot(); }
  [[nodiscard]] Logger& logger() { return *logger_; }

 private:
  ServingStack() = default;
  /// The device that --null-step-us asks for. Throws ConfigError.
  [[nodiscard]] std::unique_ptr<StepRunner> make_null_runner(int64_t step_us);
  /// The device of `choice` with the checkpoint's weights, read in `load_s` seconds.
  [[nodiscard]] std::unique_ptr<StepRunner> load_workers(const ModelOptions& options,
                                                         const std::filesystem::path& path,
                                                         const DeviceChoice& choice,
                                                         double& load_s);

  // Behind pointers, so that their addresses survive a move of the stack.
  std::unique_ptr<Logger> logger_;
  std::unique_ptr<SteadyClock> clock_;
  std::unique_ptr<BusyTimes> busy_;
  std::unique_ptr<TextModel> text_;
  EngineConfig engine_config_;
  ModelConfig model_config_;
  DeviceInfo device_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace nanoflow
