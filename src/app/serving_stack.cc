#include "app/serving_stack.h"

#include <algorithm>
#include <cmath>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "app/device_choice.h"
#include "app/pull.h"
#include "app/signals.h"
#include "base/cores.h"
#include "base/error.h"
#include "base/mmap.h"
#include "base/progress.h"
#include "base/units.h"
#include "engine/null_runner.h"
#include "engine/worker_group.h"
#include "formats/gguf.h"
#include "model/graph.h"
#include "model/source.h"
#include "text/tokenizer_loader.h"
#include "text/unicode.h"

namespace nanoflow {
namespace {

bool is_gguf(const std::filesystem::path& path) {
  return path.extension() == ".gguf";
}

/// A folder's only .gguf file, if it is a GGUF folder; else the folder.
std::filesystem::path model_in_folder(const std::filesystem::path& folder) {
  if (file_exists(folder / "config.json")) return folder;
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error))
    if (is_gguf(entry->path())) files.push_back(entry->path());
  if (error) throw IoError(folder.string(), "cannot list: " + error.message());
  if (files.size() == 1) return files.front();
  throw ConfigError("--model", fmt::format("{} has no config.json{}", folder.string(),
                                           files.empty() ? " and no .gguf file"
                                                         : "; name one of its .gguf files"));
}

std::string model_name(const ModelOptions& options, const std::filesystem::path& path) {
  if (!file_exists(options.model)) return options.model;  // a hub id
  const std::filesystem::path clean = path.lexically_normal();
  const std::string name = is_gguf(clean) ? clean.stem().string() : clean.filename().string();
  return name.empty() ? clean.parent_path().filename().string() : name;
}

void load_text(const ModelOptions& options, const std::filesystem::path& path, TextModel& text) {
  SpecialTokens special;
  std::vector<ChatTemplateSource> templates;
  if (!options.skip_tokenizer_init) {
    const std::filesystem::path from =
        options.tokenizer.empty() ? path : std::filesystem::path(options.tokenizer);
    if (is_gguf(from)) {
      const GgufFile gguf(from);
      text.tokenizer = tokenizer_from_gguf(gguf);
      if (const auto source = gguf.find_string("tokenizer.chat_template"))
        templates.push_back({.text = std::string(*source), .origin = from.string()});
    } else {
      text.tokenizer = load_tokenizer(from);
      templates = find_chat_template(from.string());
      special = find_special_tokens(from.string());
    }
    for (const auto& [name, id] : {std::pair{"bos_token", text.tokenizer->bos_id()},
                                   {"eos_token", text.tokenizer->eos_id()},
                                   {"unk_token", text.tokenizer->unk_id()},
                                   {"pad_token", text.tokenizer->pad_id()}}) {
      if (id.has_value()) special.try_emplace(name, text.tokenizer->token_text(*id));
    }
  }
  if (!options.chat_template.empty()) templates = load_chat_template(options.chat_template);
  if (!templates.empty()) text.chat_template = ChatTemplate::compile(std::move(templates), special);
  text.tool_format =
      options.tool_call_parser != "auto" ? tool_format_of_name(options.tool_call_parser)
      : text.chat_template.has_value()   ? tool_format_of_template(text.chat_template->text())
                                         : std::nullopt;
}

SamplingDefaults sampling_defaults(const GenerationDefaults& generation) {
  SamplingDefaults defaults;
  if (!generation.do_sample.value_or(true)) defaults.temperature = 0;
  defaults.temperature = generation.temperature.value_or(defaults.temperature);
  defaults.top_p = generation.top_p.value_or(defaults.top_p);
  defaults.top_k = generation.top_k.value_or(defaults.top_k);
  defaults.min_p = generation.min_p.value_or(defaults.min_p);
  defaults.repetition_penalty = generation.repetition_penalty.value_or(defaults.repetition_penalty);
  return defaults;
}

/// A CPU shares its memory with everything else on the machine.
constexpr double kCpuKvMemoryFraction = 0.5;

// Seconds; a step of 2,048 rows of an 8 B model takes a twentieth of one on an H200.
constexpr double kGpuStepTimeout = 60;

/// Throws OutOfMemory before minutes of loading where the host cannot hold the weights.
void check_weights_fit(const EngineConfig& config, const ModelConfig& model, int64_t free_bytes) {
  if (config.kv_cache_bytes > 0) return;
  const int64_t weights = model.weight_bytes(*config.dtype, config.tp_size) * config.tp_size;
  if (weights >= free_bytes)
    throw OutOfMemory(fmt::format(
        "the weights need {:.1f} GiB, but only {:.1f} GiB of memory are free; \"nanoflow inspect\" "
        "shows what fits, --kv-cache-gib skips this check",
        gib(weights), gib(free_bytes)));
}

/// Ranks share the cores.
int threads_per_rank(const ModelOptions& options) {
  const int threads = options.threads > 0 ? options.threads : usable_cores();
  return std::max(1, threads / options.tensor_parallel_size);
}

/// Tokens that a reader sees as they come: whole characters and nothing special. All but those that
/// end an answer where there is no text.
std::vector<int32_t> readable_tokens(const ModelConfig& model, const Tokenizer* tokenizer) {
  const auto ends = [&](int32_t id) {
    return std::find(model.eos_token_id.begin(), model.eos_token_id.end(), id) !=
           model.eos_token_id.end();
  };
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < model.vocab_size; ++id) {
    if (ends(id)) continue;
    if (tokenizer != nullptr && (tokenizer->is_special(id) || tokenizer->token_bytes(id).empty() ||
                                 !is_valid_utf8(tokenizer->token_bytes(id))))
      continue;
    ids.push_back(id);
  }
  if (ids.empty())
    throw ConfigError("--null-step-us", "the vocabulary has no token of whole characters");
  return ids;
}

struct StartReport {
  double all_s = 0;
  double load_s = 0;    ///< of it, reading weights
  bool no_gpu = false;  ///< the device is a CPU since nothing else was found
};

void print_summary(const TextModel& text, const ModelConfig& model, const EngineConfig& config,
                   const DeviceInfo& device, const StartReport& report) {
  const auto line = [](std::string_view name, const std::string& value) {
    fmt::print(stderr, "  {:<10}{}\n", name, value);
  };
  const double millions = static_cast<double>(model.parameters().total()) * 1e-6;
  fmt::print(stderr, "NanoFlow is ready after {:.1f} s\n", report.all_s);
  line("model", fmt::format("{} ({}, {})", text.name, model.architecture,
                            millions >= 1000 ? fmt::format("{:.2f} B parameters", millions * 1e-3)
                                             : fmt::format("{:.0f} M parameters", millions)));
  line("device", fmt::format("{}{}{}", device.name,
                             config.tp_size > 1 ? fmt::format(", {} ranks", config.tp_size) : "",
                             report.no_gpu ? " (no GPU is visible)" : ""));
  line("memory",
       fmt::format(
           "weights {:.2f} GiB (read in {:.1f} s), KV cache {:.2f} GiB = {} tokens",
           gib(model.weight_bytes(*config.dtype, config.tp_size)), report.load_s,
           gib(text.limits.kv_tokens() * model.kv_bytes_per_token(*config.dtype, config.tp_size)),
           text.limits.kv_tokens()));
  line("limits",
       fmt::format("{} tokens per request, {} sequences, {} rows per step, {:.1f} requests "
                   "at full length",
                   text.limits.max_model_len, config.max_num_seqs, config.max_num_batched_tokens,
                   static_cast<double>(text.limits.kv_tokens()) /
                       static_cast<double>(text.limits.max_model_len)));
  line("pipeline", fmt::format("{}, {}", config.pipeline, dtype_name(*config.dtype)));
}

}  // namespace

std::optional<DType> parse_dtype(const std::string& name) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
    if (dtype_name(dtype) == name) return dtype;
  return std::nullopt;
}

EngineConfig make_engine_config(const ModelOptions& o, const DeviceChoice& device) {
  EngineConfig config;
  config.tp_size = o.tensor_parallel_size;
  config.pipeline = o.pipeline;
  config.seed = o.seed;
  config.capture_graphs = !o.enforce_eager;
  config.timed_step_interval = o.timed_step_interval;
  config.max_model_len = o.max_model_len;
  if (o.max_queue_size > 0) config.max_queue_size = o.max_queue_size;
  config.load_threads = threads_per_rank(o);
  if (o.max_num_batched_tokens > 0) config.max_num_batched_tokens = o.max_num_batched_tokens;
  // Each running sequence needs a row of a step.
  config.max_num_seqs = o.max_num_seqs > 0
                            ? o.max_num_seqs
                            : std::min(config.max_num_seqs, config.max_num_batched_tokens);
  config.dtype = parse_dtype(o.dtype);
  if (!config.dtype.has_value()) config.dtype = device_info(device).preferred_dtype;
  // Less than a byte is still no "chosen".
  config.kv_cache_bytes = static_cast<int64_t>(std::ceil(o.kv_cache_gib * (1 << 30)));
  if (!device.is_cuda) config.kv_memory_fraction = kCpuKvMemoryFraction;
  // A CPU may be slow, but it does not hang.
  config.step_timeout_s = device.is_cuda ? kGpuStepTimeout : 0;
  if (o.step_timeout_s > 0) config.step_timeout_s = o.step_timeout_s;
  if (o.kv_memory_fraction > 0) config.kv_memory_fraction = o.kv_memory_fraction;
  config.validate();
  return config;
}

std::filesystem::path resolve_model(const ModelOptions& options) {
  if (options.model.empty())
    throw ConfigError("--model", "name a folder, a .gguf file, or a hub id (org/name)");
  std::filesystem::path path(options.model);
  if (is_folder(path)) return model_in_folder(path);
  if (file_exists(path)) return path;
  if (is_gguf(path) || options.model.starts_with('/') || options.model.starts_with('.') ||
      std::count(options.model.begin(), options.model.end(), '/') != 1)
    throw ConfigError("--model", options.model + " does not exist");
  return model_in_folder(pull_model(options.model, options.revision));
}

std::string served_model_name(const ModelOptions& options) {
  return file_exists(options.model) ? model_name(options, resolve_model(options)) : options.model;
}

ServingStack ServingStack::load(const ModelOptions& options) {
  ServingStack stack;
  stack.logger_ = std::make_unique<Logger>(options.verbose ? LogLevel::kDebug : LogLevel::kWarning);
  stack.clock_ = std::make_unique<SteadyClock>();
  stack.busy_ = std::make_unique<BusyTimes>();
  const double start_s = stack.clock_->now_s();

  const std::filesystem::path path = resolve_model(options);
  stack.model_config_ = read_model_config(path);
  const bool is_null = options.null_step_us.has_value();
  const DeviceChoice choice = is_null ? DeviceChoice() : choose_device(options.device);
  if (choice.is_cuda && options.reference_kernels)
    throw ConfigError("--reference-kernels", "are the CPU's: add --device cpu");
  stack.engine_config_ = make_engine_config(options, choice);
  if (!choice.is_cuda && !is_null)
    check_weights_fit(stack.engine_config_, stack.model_config_, device_info(choice).free_bytes);
  stack.text_ = std::make_unique<TextModel>();
  stack.text_->name = options.served_name.empty() ? model_name(options, path) : options.served_name;
  stack.text_->defaults = sampling_defaults(stack.model_config_.generation);
  load_text(options, path, *stack.text_);

  double load_s = 0;
  std::unique_ptr<StepRunner> runner = is_null ? stack.make_null_runner(*options.null_step_us)
                                               : stack.load_workers(options, path, choice, load_s);
  stack.engine_ = std::make_unique<Engine>(stack.engine_config_, std::move(runner), *stack.clock_,
                                           *stack.logger_);
  stack.text_->limits = stack.engine_->limits();
  if (stack.text_->tokenizer.has_value())
    stack.text_->grammars =
        std::make_unique<GrammarCompiler>(*stack.text_->tokenizer, stack.text_->limits.vocab_size);
  print_summary(*stack.text_, stack.model_config_, stack.engine_config_, stack.device_,
                {stack.clock_->now_s() - start_s, load_s,
                 !is_null && options.device == "auto" && !choice.is_cuda});
  return stack;
}

std::unique_ptr<StepRunner> ServingStack::make_null_runner(int64_t step_us) {
  device_.name = fmt::format("none: nothing is computed, a step takes {} us", step_us);
  return std::make_unique<NullRunner>(
      null_limits(engine_config_, model_config_),
      readable_tokens(model_config_, text_->tokenizer ? &*text_->tokenizer : nullptr),
      step_us * 1000);
}

std::unique_ptr<StepRunner> ServingStack::load_workers(const ModelOptions& options,
                                                       const std::filesystem::path& path,
                                                       const DeviceChoice& choice, double& load_s) {
  const std::unique_ptr<CheckpointSource> source =
      options.load_format == "dummy" ? make_dummy_source(model_config_, {.seed = options.seed})
                                     : open_checkpoint(path, model_config_);
  double loading_s = 0, loaded_s = 0;
  const auto make_backend = [&](Communicator& comm) -> std::unique_ptr<Backend> {
    auto backend = nanoflow::make_backend(choice, {.threads = threads_per_rank(options),
                                                   .comm = &comm,
                                                   .reference_kernels = options.reference_kernels});
    if (comm.rank() == 0) device_ = backend->device();
    return backend;
  };
  std::optional<ProgressBar> bar;  // a refused checkpoint draws none
  const auto progress = [&](int64_t done, int64_t total) {
    if (interrupted()) throw EnvironmentError("interrupted while the weights were loading");
    if (!bar.has_value()) bar.emplace("Loading weights", total, ProgressBar::Unit::kBytes, stderr);
    (done == 0 ? loading_s : loaded_s) = clock_->now_s();
    bar->set_total(total);
    bar->set(done);
  };
  std::unique_ptr<StepRunner> runner =
      make_worker_group(engine_config_, model_config_, *source, make_backend, *logger_, progress,
                        [busy = busy_.get()](const StepRecord& record) { busy->add(record); });
  if (bar.has_value()) bar->finish();
  load_s = loaded_s - loading_s;
  return runner;
}

}  // namespace nanoflow
