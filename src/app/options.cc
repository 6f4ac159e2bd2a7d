#include "app/options.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "app/device_choice.h"

namespace nanoflow {
namespace {

constexpr double kMaxStepTimeout = 1e9;  // seconds: three decades
constexpr double kMaxGib = 1 << 20;      // a pebibyte: in bytes far from where integers end

}  // namespace

std::function<std::string(const std::string&)> number_between(double low, double high) {
  return [low, high](const std::string& text) -> std::string {
    double value = 0;
    if (CLI::detail::lexical_cast(text, value) && value >= low && value <= high) return {};
    return fmt::format("{} is no number between {} and {}", text, low, high);
  };
}

void add_skip_tokenizer_option(CLI::App& command, ModelOptions& o) {
  command
      .add_flag("--skip-tokenizer-init", o.skip_tokenizer_init,
                "Serve token-id prompts only; the checkpoint needs no tokenizer")
      ->group("Model");
}

void add_model_options(CLI::App& command, ModelOptions& o) {
  const char* model = "Model";
  command.add_option("-m,--model", o.model, "Folder, .gguf file, or hub id (org/name)")
      ->envname("NANOFLOW_MODEL")
      ->group(model);
  command.add_option("--revision", o.revision, "Branch, tag or commit of a hub id")
      ->capture_default_str()
      ->group(model);
  command
      .add_option("--tokenizer", o.tokenizer,
                  "Folder or .gguf with the tokenizer, if not the model's")
      ->group(model);
  command.add_option("--chat-template", o.chat_template, "chatml, llama-2, or a Jinja file")
      ->group(model);
  command
      .add_option("--tool-call-parser", o.tool_call_parser,
                  "How the model writes tool calls; auto: as its chat template says")
      ->check(CLI::IsMember({"auto", "hermes", "llama3_json", "mistral"}))
      ->capture_default_str()
      ->group(model);
  command
      .add_option("--load-format", o.load_format, "auto, or dummy: random weights for config.json")
      ->check(CLI::IsMember({"auto", "dummy"}))
      ->capture_default_str()
      ->group(model);
  command.add_option("--dtype", o.dtype, "Compute type; auto: the fastest of this device")
      ->check(CLI::IsMember({"auto", "bfloat16", "float16", "float32"}))
      ->capture_default_str()
      ->group(model);

  const char* engine = "Engine";
  command
      .add_option("--device", o.device,
                  "cpu, cuda, cuda:<number>, or auto: the GPU where one is visible")
      ->check([](const std::string& name) {
        return is_device_name(name) ? std::string() : "use auto, cpu, cuda or cuda:<number>";
      })
      ->capture_default_str()
      ->group(engine);
  command.add_option("--threads", o.threads, "CPU threads; 0: every core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str()
      ->group(engine);
  command
      .add_option("--tensor-parallel-size,--tp", o.tensor_parallel_size,
                  "Ranks that share the model")
      ->check(CLI::Range(1, 64))
      ->capture_default_str()
      ->group(engine);
  command
      .add_option("--pipeline", o.pipeline,
                  "sequential, nanobatch2, nanobatch4, overlap2, overlap3, or a spec file")
      ->capture_default_str()
      ->group(engine);
  command
      .add_option("--max-model-len", o.max_model_len,
                  "Longest prompt + output, in tokens; 0: the model's")
      ->check(CLI::Range(int64_t{0}, int64_t{INT32_MAX}))
      ->group(engine);
  command
      .add_option("--max-num-seqs", o.max_num_seqs, "Most sequences that run at once; 0: chosen")
      ->check(CLI::Range(int64_t{0}, int64_t{INT32_MAX}))
      ->group(engine);
  command
      .add_option("--max-num-batched-tokens", o.max_num_batched_tokens, "Rows of a step; 0: chosen")
      ->check(CLI::Range(int64_t{0}, int64_t{INT32_MAX}))
      ->group(engine);
  command.add_option("--kv-cache-gib", o.kv_cache_gib, "Memory for the KV cache; 0: chosen")
      ->check(number_between(0, kMaxGib))
      ->group(engine);
  command
      .add_option("--kv-memory-fraction", o.kv_memory_fraction,
                  "Share of the memory that weights leave free for the KV cache, without "
                  "--kv-cache-gib; 0: chosen")
      ->check(number_between(0, 1))
      ->group(engine);
  command
      .add_option(
          "--step-timeout", o.step_timeout_s,
          "Seconds after which a step counts as hung and the engine fails; 0: chosen (60 on "
          "a GPU, none on a CPU)")
      ->check(number_between(0, kMaxStepTimeout))
      ->group(engine);
  command
      .add_flag("--reference-kernels", o.reference_kernels, "Slow, exact kernels (for checking)")
      ->group(engine);
  command
      .add_flag("--enforce-eager", o.enforce_eager,
                "Issue a step's operations one by one instead of replaying a captured graph")
      ->group(engine);
  command.add_option("--seed", o.seed, "Seed of sampling without a request's own")
      ->capture_default_str()
      ->group(engine);
  command.add_flag("-v,--verbose", o.verbose, "Log more")->group(engine);
}

}  // namespace nanoflow
