// nanoflow inspect: what a checkpoint is and whether this machine can serve it; loads no weights,
// but checks what loading them would check first.
#include <cstdio>
#include <exception>
#include <memory>
#include <string>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "app/commands.h"
#include "app/device_choice.h"
#include "app/options.h"
#include "app/serving_stack.h"
#include "app/stored_types.h"
#include "base/error.h"
#include "base/json.h"
#include "base/units.h"
#include "engine/kv_budget.h"
#include "model/config.h"
#include "model/source.h"
#include "model/weights.h"

namespace nanoflow {
namespace {

struct InspectOptions {
  ModelOptions model;
  bool json = false;
};

struct Report {
  ModelConfig config;
  std::filesystem::path path;
  std::vector<StoredType> stored;
  DType dtype = DType::kBF16;
  int tp_size = 1;
  DeviceInfo device;
  int64_t kv_tokens = 0;        ///< that an engine with default options would have now
  std::exception_ptr unusable;  ///< why the checkpoint cannot be served, here or anywhere

  [[nodiscard]] int64_t weight_bytes() const { return config.weight_bytes(dtype, tp_size); }
  [[nodiscard]] int64_t kv_bytes_per_token() const {
    return config.kv_bytes_per_token(dtype, tp_size);
  }
  /// Of all ranks that share the device's memory.
  [[nodiscard]] int64_t missing_bytes() const {
    const bool is_shared = device.device.kind == Device::Kind::kHost;
    return weight_bytes() * (is_shared ? tp_size : 1) - device.free_bytes;
  }
  /// KV tokens that fit beside the weights on this machine now; negative: the weights do not.
  [[nodiscard]] int64_t kv_tokens_that_fit() const { return missing_bytes() >= 0 ? -1 : kv_tokens; }
  [[nodiscard]] std::string why_unusable() const {
    try {
      if (unusable) std::rethrow_exception(unusable);
    } catch (const EnvironmentError& error) {
      return error.what();
    }
    return {};
  }
};

/// The type of most bytes; where there are no weights, what config.json announces.
std::string main_stored_type(const Report& r) {
  return r.stored.empty() ? std::string(dtype_name(r.config.dtype)) : r.stored.front().name;
}

Json to_json(const Report& r) {
  const ParameterCount p = r.config.parameters();
  Json::Array stored;
  for (const StoredType& type : r.stored)
    stored.push_back(
        Json::object({{"type", type.name}, {"tensors", type.tensors}, {"bytes", type.bytes}}));
  return Json::object({{"path", r.path.string()},
                       {"architecture", r.config.architecture},
                       {"parameters", Json::object({{"total", p.total()},
                                                    {"active", p.active},
                                                    {"embedding", p.embedding},
                                                    {"attention", p.attention},
                                                    {"ffn", p.ffn},
                                                    {"norms", p.norms},
                                                    {"lm_head", p.lm_head}})},
                       {"stored_dtype", main_stored_type(r)},
                       {"stored", std::move(stored)},
                       {"compute_dtype", dtype_name(r.dtype)},
                       {"layers", r.config.num_hidden_layers},
                       {"hidden_size", r.config.hidden_size},
                       {"heads", r.config.num_attention_heads},
                       {"kv_heads", r.config.num_key_value_heads},
                       {"head_dim", r.config.head_dim},
                       {"vocab_size", r.config.vocab_size},
                       {"max_position_embeddings", r.config.max_position_embeddings},
                       {"tp_size", r.tp_size},
                       {"weight_bytes_per_rank", r.weight_bytes()},
                       {"kv_bytes_per_token_per_rank", r.kv_bytes_per_token()},
                       {"device", Json::object({{"name", r.device.name},
                                                {"memory_bytes", r.device.memory_bytes},
                                                {"free_bytes", r.device.free_bytes}})},
                       {"kv_tokens_that_fit", r.kv_tokens_that_fit()},
                       {"cannot_serve", r.unusable ? Json(r.why_unusable()) : Json()}});
}

std::string stored_text(const Report& r) {
  if (r.stored.empty())
    return fmt::format("{} (config.json: {})",
                       r.unusable ? "nothing that can be read" : "no weights here",
                       main_stored_type(r));
  std::string text;
  for (const StoredType& type : r.stored)
    text += fmt::format("{}{} ({} tensors, {})", text.empty() ? "" : ", ", type.name, type.tensors,
                        format_bytes(static_cast<double>(type.bytes)));
  return text;
}

std::string fits_text(const Report& r) {
  if (r.unusable) return "no: this checkpoint cannot be served";
  const int64_t tokens = r.kv_tokens_that_fit();
  if (tokens < 0)
    return fmt::format("no: the weights alone need {:.1f} GiB more", gib(r.missing_bytes()));
  if (tokens == 0) return "no: the weights leave no room for a KV cache";
  return fmt::format(
      "yes, with {} tokens of KV cache ({:.1f} requests at full length)", tokens,
      static_cast<double>(tokens) / static_cast<double>(r.config.max_position_embeddings));
}

void print(const Report& r) {
  const ModelConfig& c = r.config;
  const ParameterCount p = c.parameters();
  const auto line = [](std::string_view name, const std::string& value) {
    fmt::print("  {:<14}{}\n", name, value);
  };
  fmt::print("{}\n", r.path.string());
  line("architecture", c.architecture);
  line("parameters",
       fmt::format("{:.3f} B{}", static_cast<double>(p.total()) * 1e-9,
                   p.active == p.total() ? ""
                                         : fmt::format(", {:.3f} B active per token",
                                                       static_cast<double>(p.active) * 1e-9)));
  line("shape", fmt::format("{} layers, hidden {}, {} heads ({} KV) of {}, FFN {}, vocabulary {}",
                            c.num_hidden_layers, c.hidden_size, c.num_attention_heads,
                            c.num_key_value_heads, c.head_dim, c.intermediate_size, c.vocab_size));
  if (c.is_moe())
    line("experts", fmt::format("{}, {} per token", c.num_local_experts, c.num_experts_per_tok));
  line("context",
       fmt::format(
           "{} tokens{}", c.max_position_embeddings,
           c.sliding_window > 0 ? fmt::format(", sliding window {}", c.sliding_window) : ""));
  line("stored as", stored_text(r));
  line("weights",
       fmt::format("{:.2f} GiB as {}{}", gib(r.weight_bytes()), dtype_name(r.dtype),
                   r.tp_size > 1 ? fmt::format(", on each of {} ranks", r.tp_size) : ""));
  line("KV cache", fmt::format("{:.1f} KiB per token, {:.2f} GiB per {} tokens",
                               static_cast<double>(r.kv_bytes_per_token()) / 1024,
                               gib(r.kv_bytes_per_token() * c.max_position_embeddings),
                               c.max_position_embeddings));
  line("this machine", fmt::format("{}, {:.1f} GiB free of {:.1f}", r.device.name,
                                   gib(r.device.free_bytes), gib(r.device.memory_bytes)));
  line("fits", fits_text(r));
}

/// Weights and cache. Throws what the engine would throw for them before it reads the first weight.
void examine(const ModelOptions& options, Report& r) {
  const DeviceChoice choice = choose_device(options.device);
  const std::unique_ptr<Backend> backend = make_backend(choice, {});
  r.device = backend->device();
  const EngineConfig config = make_engine_config(options, choice);
  r.dtype = *config.dtype;
  r.kv_tokens = forecast_kv_tokens(config, r.config, *backend);
  try {
    if (has_weights(r.path))
      check_checkpoint(r.config, *open_checkpoint(r.path, r.config), r.tp_size);
  } catch (const EnvironmentError&) {
    r.unusable = std::current_exception();
  }
}

int run(const InspectOptions& o) {
  Report report;
  report.path = resolve_model(o.model);
  report.config = read_model_config(report.path);
  report.stored = stored_types(report.path);
  report.tp_size = o.model.tensor_parallel_size;
  report.config.validate_tp(report.tp_size);
  examine(o.model, report);
  if (o.json) {
    fmt::print("{}\n", to_json(report).dump(2));
  } else {
    print(report);
  }
  if (report.unusable) std::rethrow_exception(report.unusable);
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("inspect", "What a checkpoint is, and what of it fits here");
  auto o = std::make_shared<InspectOptions>();  // shared by the options and the command they run
  sub->add_option("model,-m,--model", o->model.model, "Folder, .gguf file, or hub id")->required();
  sub->add_option("--revision", o->model.revision, "Branch, tag or commit of a hub id");
  sub->add_option("--dtype", o->model.dtype, "Compute type to count with")
      ->check(CLI::IsMember({"auto", "bfloat16", "float16", "float32"}))
      ->capture_default_str();
  sub->add_option(
         "--device", o->model.device,
         "Where it shall be served: cpu, cuda, cuda:<number>, or auto: the GPU where one is "
         "visible")
      ->check([](const std::string& name) {
        return is_device_name(name) ? std::string() : "use auto, cpu, cuda or cuda:<number>";
      })
      ->capture_default_str();
  sub->add_option("--tensor-parallel-size,--tp", o->model.tensor_parallel_size, "Ranks")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  sub->add_flag("--json", o->json, "As JSON");
  sub->footer(
      "Examples:\n"
      "  nanoflow inspect ./Llama-3-8B\n"
      "  nanoflow inspect model.gguf --dtype float32 --json");
  sub->callback([o, &command] { command = [o] { return run(*o); }; });
}

}  // namespace nanoflow
