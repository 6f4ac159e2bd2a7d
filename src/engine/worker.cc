#include "engine/worker.h"

#include <algorithm>
#include <exception>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/cores.h"
#include "base/error.h"
#include "base/units.h"
#include "engine/device_memory.h"
#include "engine/kv_budget.h"
#include "engine/memory_check.h"
#include "engine/row_bucket.h"

namespace nanoflow {

namespace {

LoadOptions load_options(const EngineConfig& config, const ModelConfig& model, DType act,
                         int tp_rank, const LoadProgress& progress) {
  if (config.max_model_len > model.max_position_embeddings) {
    throw ConfigError("--max-model-len",
                      fmt::format("is {}, but the model's positions end at {}",
                                  config.max_model_len, model.max_position_embeddings));
  }
  LoadOptions options;
  options.dtype = act;
  options.tp_rank = tp_rank;
  options.tp_size = config.tp_size;
  options.max_positions = config.max_model_len;
  options.num_threads = config.load_threads > 0
                            ? config.load_threads
                            : std::max(1, usable_cores() / std::max(1, config.tp_size));
  options.progress = progress;
  return options;
}

}  // namespace

Worker::Worker(const EngineConfig& config, const ModelConfig& model, const CheckpointSource& source,
               std::unique_ptr<Backend> backend, int tp_rank, Logger& logger,
               const LoadProgress& progress, StepRecordSink records)
    : config_(config),
      model_(model),
      logger_(logger),
      reports_(tp_rank == 0),
      backend_(std::move(backend)),
      act_(config.dtype.value_or(backend_->device().preferred_dtype)),
      kv_layout_(backend_->kv_layout({model.kv_heads(config.tp_size), model.head_dim, act_})),
      weights_(model, source, *backend_,
               checked(load_options(config, model, act_, tp_rank, progress))),
      plans_(*backend_, model_, weights_, act_, config.tp_size, config.pipeline,
             step_capacity(config_)),
      executor_(*backend_),
      result_arrays_(*backend_,
                     step_capacity(config_).sample_chunk * step_capacity(config_).sample_chunks) {
  if (config.timed_step_interval > 0 && records)
    timing_.emplace(*backend_, executor_, std::move(records), config.timed_step_interval,
                    config.tp_size, config.capture_graphs);
}

Worker::~Worker() {
  try {
    backend_->synchronize();
  } catch (const std::exception& e) {
    // What failed was reported when its results were asked for.
    logger_.debug("while stopping: {}", e.what());
  }
}

LoadOptions Worker::checked(LoadOptions options) const {
  const DeviceInfo device = backend_->device();
  // A host's memory is shared, and the system may find more of it.
  if (device.device.kind == Device::Kind::kHost) return options;
  require_memory(config_, memory_need(config_, model_, *backend_, options), device);
  return options;
}

int64_t Worker::bytes_per_page() const {
  return kv_layout_.bytes_per_page * model_.num_hidden_layers;
}

int64_t Worker::affordable_pages() const {
  const DeviceInfo device = backend_->device();
  const MemoryNeed page{.page_bytes = bytes_per_page(), .page_tokens = kv_layout_.page_size};
  const int64_t pages =
      nanoflow::affordable_pages(config_, page, max_request_tokens(config_, model_), device);
  if (pages >= 1) return pages;
  throw OutOfMemory(fmt::format(
      "{} leave no room for a page of the KV cache ({} of {} tokens); raise --kv-cache-gib or free "
      "memory",
      config_.kv_cache_bytes > 0
          ? format_bytes(static_cast<double>(config_.kv_cache_bytes)) + " of KV cache"
          : format_bytes(static_cast<double>(device.free_bytes)) + " of free memory",
      format_bytes(static_cast<double>(page.page_bytes)), page.page_tokens));
}

void Worker::allocate_cache(int64_t num_pages) {
  NANO_CHECK(!kv_memory_, "the cache exists");
  num_pages_ = num_pages;
  kv_memory_.emplace(*backend_, kv_layout_, act_, model_.num_hidden_layers, num_pages);
  StepCapacity capacity = step_capacity(config_);
  capacity.page_indices = num_pages;
  capacity.biases =
      config_.max_num_seqs * static_cast<int64_t>(kMaxLogitBias + 2 * kMaxStopTokenIds);
  capacity.mask_words = mask_words(model_.vocab_size);
  // Every token but a sequence's last one is in the cache.
  capacity.history = num_pages * kv_layout_.page_size + config_.max_num_seqs;
  step_arrays_.emplace(*backend_, capacity);
  plans_.bind(*step_arrays_, result_arrays_, kv_memory_->views(),
              config_.capture_graphs ? &executor_ : nullptr);
  if (config_.warm_up) plans_.warm_up();
  if (!reports_) return;
  logger_.info("memory per rank: weights {}, KV cache {} ({} tokens), work {}",
               format_bytes(static_cast<double>(weights_.bytes())),
               format_bytes(static_cast<double>(kv_memory_->bytes())),
               num_pages * kv_layout_.page_size,
               format_bytes(static_cast<double>(plans_.bytes() + step_arrays_->bytes())));
}

EngineLimits Worker::limits() const {
  return {.max_model_len = max_request_tokens(config_, model_),
          .vocab_size = model_.vocab_size,
          .page_size = kv_layout_.page_size,
          .num_pages = num_pages_,
          .eos_token_ids = model_.eos_token_id};
}

std::vector<PlanRun> Worker::plans_of(const StepBatch& batch) {
  const int64_t chunk_rows = step_capacity(config_).sample_chunk;
  std::vector<PlanRun> runs = {
      {&plans_.forward(row_bucket(batch.header.num_rows),
                       batch.header.num_decode_rows == batch.header.num_rows),
       batch.header.num_rows}};
  for (int64_t chunk = 0; chunk * chunk_rows < batch.header.num_samples; ++chunk) {
    const int64_t rows = std::min(batch.header.num_samples - chunk * chunk_rows, chunk_rows);
    runs.push_back({&plans_.sample(chunk, row_bucket(rows)), rows});
  }
  return runs;
}

void Worker::launch(const StepBatch& batch) {
  NANO_CHECK(step_arrays_.has_value(), "there is no cache");
  const std::vector<PlanRun> runs = plans_of(batch);
  step_arrays_->upload(batch, row_bucket(batch.header.num_rows));
  const bool times_ops = timing_ && timing_->begin(batch, runs);
  for (const PlanRun& each : runs) {
    if (times_ops) {
      timing_->run(*each.prepared);
    } else {
      run(*each.prepared);
    }
  }
  if (timing_) timing_->end();
  result_arrays_.download(batch);
}

void Worker::run(const PreparedPlan& prepared) {
  if (prepared.graph.has_value()) {
    backend_->replay(*prepared.graph);
  } else {
    executor_.run(prepared.plan);
  }
}

StepResults Worker::results() {
  StepResults results = result_arrays_.wait();
  if (timing_) timing_->collect();
  return results;
}

}  // namespace nanoflow
