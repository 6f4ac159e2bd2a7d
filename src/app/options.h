// Options that every command which runs a model shares, and how they are declared on the command
// line.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace CLI {
class App;
}

namespace nanoflow {

/// What the operator said; "" and 0 mean "choose for me". Which value that becomes is decided in
/// one place (serving_stack.cc or EngineConfig) and printed in the start-up summary.
struct ModelOptions {
  std::string model;  ///< folder, .gguf file, or hub id "org/name"
  std::string revision = "main";
  std::string served_name;  ///< of the model in answers; "": its own
  std::string tokenizer;    ///< folder or .gguf; "": the model's own
  bool skip_tokenizer_init = false;
  std::string chat_template;              ///< built-in name or file; "": the model's own
  std::string tool_call_parser = "auto";  ///< auto | hermes | llama3_json | mistral
  std::string load_format = "auto";       ///< auto | dummy
  std::string dtype = "auto";             ///< auto | bfloat16 | float16 | float32
  std::string device = "auto";            ///< auto | cpu | cuda | cuda:<number>
  int threads = 0;                        ///< CPU threads, 0: all cores
  int tensor_parallel_size = 1;
  std::string pipeline = "sequential";  ///< a generator's name or a spec file
  int64_t max_model_len = 0;
  int64_t max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
  double kv_cache_gib = 0;
  double kv_memory_fraction = 0;
  double step_timeout_s = 0;
  bool reference_kernels = false;
  bool enforce_eager = false;
  uint64_t seed = 0;
  bool verbose = false;
  int64_t timed_step_interval = 0;  ///< as EngineConfig's
  int64_t max_queue_size = 0;       ///< as EngineConfig's; 0: its default
  /// Steps take this many microseconds and compute nothing; unset: the model is served.
  std::optional<int64_t> null_step_us;
};

/// A check for add_option: a finite number in [low, high]. CLI11's own ranges let "nan" pass.
std::function<std::string(const std::string&)> number_between(double low, double high);

/// Declares --skip-tokenizer-init on a command that can do without text.
void add_skip_tokenizer_option(CLI::App& command, ModelOptions& options);

/// Declares --model and the rest on `command`, grouped for --help.
void add_model_options(CLI::App& command, ModelOptions& options);

}  // namespace nanoflow
