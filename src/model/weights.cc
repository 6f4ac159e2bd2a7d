#include "model/weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "model/convert.h"
#include "model/weight_plan.h"

namespace nanoflow {
namespace {

/// Rows of one piece, about as many bytes as a core converts in a few hundred microseconds: enough
/// chunks for all threads, few enough that handing them out costs nothing.
struct Chunk {
  const WeightPiece* piece;
  int64_t row_begin;
  int64_t rows;
};
constexpr int64_t kChunkElements = 1 << 17;

/// The parts of `spec` that are its rows [row_begin, row_begin + rows).
std::vector<Chunk> cut_into_chunks(const WeightSpec& spec, int64_t row_begin, int64_t rows) {
  std::vector<Chunk> chunks;
  for (const WeightPiece& piece : spec.pieces) {
    const int64_t step = std::max<int64_t>(1, kChunkElements / std::max<int64_t>(1, piece.cols));
    const int64_t end = std::min(piece.rows, row_begin + rows - piece.out_row);
    for (int64_t row = std::max<int64_t>(0, row_begin - piece.out_row); row < end; row += step)
      chunks.push_back({&piece, row, std::min(step, end - row)});
  }
  return chunks;
}

/// Threads that wait for work: a piece takes less than a millisecond, so starting them anew for
/// each would take a good part of it.
class Crew {
 public:
  explicit Crew(int num_threads) {
    try {
      for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this] { serve(); });
    } catch (...) {
      end();  // else those that are there would be joined, and wait
      throw;
    }
  }
  ~Crew() { end(); }
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  /// Calls task(0) ... task(count - 1), on this thread, too; rethrows the first exception.
  void run(size_t count, const std::function<void(size_t)>& task) {
    {
      const std::lock_guard lock(mutex_);
      task_ = &task;
      count_ = count;
      next_ = 0;
      ++round_;
      failure_ = nullptr;
    }
    if (count > 1) wake_.notify_all();
    work(task);
    std::unique_lock lock(mutex_);
    task_ = nullptr;  // who wakes up now is late
    done_.wait(lock, [&] { return num_working_ == 0; });
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void end() {
    {
      const std::lock_guard lock(mutex_);
      is_ending_ = true;
    }
    wake_.notify_all();
  }

  void serve() {
    std::unique_lock lock(mutex_);
    for (uint64_t seen = 0;; seen = round_) {
      wake_.wait(lock, [&] { return is_ending_ || (round_ != seen && task_ != nullptr); });
      if (is_ending_) return;
      ++num_working_;
      const std::function<void(size_t)>& task = *task_;
      lock.unlock();
      work(task);
      lock.lock();
      if (--num_working_ == 0) done_.notify_one();
    }
  }

  void work(const std::function<void(size_t)>& task) {
    try {
      for (size_t i = next_++; i < count_; i = next_++) task(i);
    } catch (...) {
      next_ = count_;
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(size_t)>* task_ = nullptr;  // null: no work for who wakes up now
  size_t count_ = 0;                                   // changes while nobody works
  std::atomic<size_t> next_{0};
  uint64_t round_ = 0;
  int num_working_ = 0;
  bool is_ending_ = false;
  std::exception_ptr failure_;
  std::vector<std::jthread> threads_;  // last: the others outlive them
};

/// The layer's weight of this name, else the global one.
PackedWeight find_weight(
    const std::map<std::pair<int, std::string>, PackedWeight, std::less<>>& weights,
    std::string_view name, int layer) {
  auto found = weights.find(std::pair<int, std::string>(layer, name));
  if (found == weights.end()) found = weights.find(std::pair<int, std::string>(-1, name));
  NANO_CHECK(found != weights.end(), "no weight {} of layer {}", name, layer);
  return found->second;
}

// Of GGUF files; see WeightLoader::scaled_frequencies.
constexpr const char* kRopeDivisors = "rope_freqs.weight";

void check_shape(const CheckpointSource& source, const std::string& tensor,
                 const std::vector<int64_t>& wanted) {
  const std::vector<int64_t> found = source.shape(tensor);
  if (found != wanted)
    throw FormatError(source.description(),
                      fmt::format("tensor {} has shape [{}], but the configuration asks for [{}]",
                                  tensor, fmt::join(found, ", "), fmt::join(wanted, ", ")));
}

/// Before anything is read, so that a wrong checkpoint fails in milliseconds.
void check_tensors(const ModelConfig& config, const CheckpointSource& source,
                   const std::vector<WeightSpec>& specs) {
  for (const WeightSpec& spec : specs)
    for (const WeightPiece& piece : spec.pieces) check_shape(source, piece.tensor, piece.shape);
  if (source.contains(kRopeDivisors)) check_shape(source, kRopeDivisors, {config.head_dim / 2});
}

}  // namespace

/// Reads one weight after the other, in the pieces in which the backend asks for it.
class WeightLoader {
 public:
  WeightLoader(WeightStore& store, const ModelConfig& config, const CheckpointSource& source,
               Backend& backend, const LoadOptions& options)
      : store_(store),
        config_(config),
        source_(source),
        backend_(backend),
        options_(options),
        crew_(options.num_threads) {}

  void load() {
    const std::vector<WeightSpec> specs = plan_weights(config_, options_.tp_rank, options_.tp_size);
    check_tensors(config_, source_, specs);
    for (const WeightSpec& spec : specs) bytes_total_ += spec_bytes(spec);
    const bool may_share = config_.tie_word_embeddings && options_.tp_size == 1;
    if (may_share) bytes_total_ -= spec_bytes(specs.front());
    advance(0);
    // Globals come first: where a backend wants a weight whole, the widest ones are assembled
    // before anything else is resident.
    for (const WeightSpec& spec : specs) {
      if (may_share && spec.name == "embed") continue;
      load_one(spec);
      if (may_share && spec.name == "lm_head") share_head(specs.front());
    }
    load_rope_table();
  }

 private:
  [[nodiscard]] int64_t spec_bytes(const WeightSpec& spec) const {
    return spec.elements() * dtype_size(options_.dtype);
  }

  void load_one(const WeightSpec& spec) {
    if (spec.is_vector()) {
      const Buffer host = allocate_host(spec_bytes(spec));
      read_rows(spec, 0, host.view(options_.dtype, {1, spec.cols}));
      keep(spec.name, spec.layer,
           backend_.prepare_weight(host.view(options_.dtype, {spec.cols}), spec.use));
    } else {
      const WeightShape shape{spec.rows, spec.cols, options_.dtype, spec.use, spec.experts};
      keep(spec.name, spec.layer,
           backend_.load_weight(shape, [&](int64_t row_begin, const TensorView& out) {
             read_rows(spec, row_begin, out);
           }));
    }
    advance(spec_bytes(spec));
  }

  /// Rows of a weight from `row_begin` on, as many as `out` has. Their source's pages are given
  /// back at once: of a mapped file only what one piece needs is resident.
  void read_rows(const WeightSpec& spec, int64_t row_begin, const TensorView& out) {
    const std::vector<Chunk> chunks = cut_into_chunks(spec, row_begin, out.rows());
    int64_t covered = 0;
    for (const Chunk& chunk : chunks) covered += chunk.rows * chunk.piece->cols;
    if (covered < out.rows() * out.cols()) clear(out);
    crew_.run(chunks.size(), [&](size_t i) {
      const Chunk& chunk = chunks[i];
      const WeightPiece& piece = *chunk.piece;
      const int64_t out_row = piece.out_row + chunk.row_begin - row_begin;
      const TensorView part = out.slice_rows(out_row, out_row + chunk.rows)
                                  .slice_cols(piece.out_col, piece.out_col + piece.cols);
      source_.read(piece.tensor, piece.row_begin + chunk.row_begin, piece.col_begin, part);
      if (options_.dtype == DType::kF16) check_range(piece.tensor, part);
    });
    const WeightPiece* dropped = nullptr;
    for (const Chunk& chunk : chunks)
      if (chunk.piece != dropped) source_.drop((dropped = chunk.piece)->tensor);
  }

  static void clear(const TensorView& rows) {
    const auto row_bytes = static_cast<size_t>(rows.cols() * dtype_size(rows.dtype()));
    for (int64_t row = 0; row < rows.rows(); ++row)
      std::memset(rows.slice_rows(row, row + 1).data(), 0, row_bytes);
  }

  /// bfloat16 and float32 reach further than float16; an infinite weight would answer in NaN.
  void check_range(const std::string& tensor, const TensorView& values) const {
    for (int64_t row = 0; row < values.rows(); ++row) {
      const auto* bits = values.row<uint16_t>(row);
      unsigned outside = 0;
      for (int64_t i = 0; i < values.cols(); ++i)
        outside |= static_cast<unsigned>((bits[i] & 0x7c00u) == 0x7c00u);
      if (outside != 0)
        throw FormatError(source_.description(),
                          fmt::format("tensor {} has values outside float16's range; run it in "
                                      "bfloat16 or float32",
                                      tensor));
    }
  }

  /// Tied embeddings: the head's bytes serve as the embedding if the backend left them row-major.
  void share_head(const WeightSpec& embed) {
    const PackedWeight head = store_.weight("lm_head", -1);
    if (head.layout == 0 && head.handle == nullptr && head.scale.empty()) {
      store_.by_name_[{-1, embed.name}] = head;
    } else {
      bytes_total_ += spec_bytes(embed);
      load_one(embed);
    }
  }

  void load_rope_table() {
    const int64_t positions =
        options_.max_positions > 0 ? options_.max_positions : config_.max_position_embeddings;
    const std::vector<double> frequencies = scaled_frequencies();
    const auto half = static_cast<int64_t>(frequencies.size());
    const Buffer host = allocate_host(positions * 2 * half * dtype_size(DType::kF32));
    const TensorView table = host.view(DType::kF32, {positions, 2 * half});
    crew_.run(static_cast<size_t>((positions + 1023) / 1024), [&](size_t block) {
      const int64_t begin = static_cast<int64_t>(block) * 1024;
      for (int64_t p = begin; p < std::min(begin + 1024, positions); ++p) {
        auto* row = table.row<float>(p);
        for (int64_t i = 0; i < half; ++i) {
          const double angle = static_cast<double>(p) * frequencies[static_cast<size_t>(i)];
          row[i] = static_cast<float>(std::cos(angle));
          row[half + i] = static_cast<float>(std::sin(angle));
        }
      }
    });
    keep("cos_sin", -1, backend_.prepare_weight(table, WeightUse::kTable));
  }

  /// GGUF files carry Llama 3.1's scaling as a divisor per frequency instead of as parameters.
  [[nodiscard]] std::vector<double> scaled_frequencies() const {
    std::vector<double> frequencies = rope_inverse_frequencies(config_);
    const std::string name = kRopeDivisors;
    if (!source_.contains(name)) return frequencies;
    const auto size = static_cast<int64_t>(frequencies.size());
    std::vector<float> divisors(frequencies.size());
    source_.read(name, 0, 0, TensorView(divisors.data(), DType::kF32, {1, size}));
    for (size_t i = 0; i < divisors.size(); ++i) {
      if (!(divisors[i] > 0) || std::isinf(divisors[i]))
        throw FormatError(source_.description(),
                          fmt::format("tensor {} has the value {}", name, divisors[i]));
      frequencies[i] /= static_cast<double>(divisors[i]);
    }
    return frequencies;
  }

  void keep(const std::string& name, int layer, OwnedWeight weight) {
    store_.bytes_by_name_[name] += weight.storage.size();
    OwnedWeight& owned = store_.owned_[{layer, name}];
    owned = std::move(weight);
    store_.by_name_[{layer, name}] = owned.packed;
  }

  void advance(int64_t bytes) {
    bytes_done_ += bytes;
    if (options_.progress) options_.progress(bytes_done_, bytes_total_);
  }

  WeightStore& store_;
  const ModelConfig& config_;
  const CheckpointSource& source_;
  Backend& backend_;
  const LoadOptions& options_;
  Crew crew_;
  int64_t bytes_done_ = 0;
  int64_t bytes_total_ = 0;
};

void check_checkpoint(const ModelConfig& config, const CheckpointSource& source, int tp_size) {
  check_tensors(config, source, plan_weights(config, 0, tp_size));
}

WeightStore::WeightStore(const ModelConfig& config, const CheckpointSource& source,
                         Backend& backend, const LoadOptions& options) {
  NANO_CHECK(is_weight_dtype(options.dtype), "weights in {}", dtype_name(options.dtype));
  WeightLoader(*this, config, source, backend, options).load();
}

PackedWeight WeightStore::weight(std::string_view name, int layer) const {
  return find_weight(by_name_, name, layer);
}

UnloadedWeights::UnloadedWeights(const ModelConfig& config, const LoadOptions& options)
    : base_(allocate_host(1)) {
  const bool shares = config.tie_word_embeddings && options.tp_size == 1;
  for (const WeightSpec& spec : plan_weights(config, options.tp_rank, options.tp_size)) {
    PackedWeight weight{.n = spec.rows / spec.experts, .k = spec.cols};
    weight.experts = spec.experts;
    weight.data = TensorView(base_.data(), options.dtype, {spec.rows, spec.cols});
    if (spec.is_vector()) {
      weight.n = spec.cols;
      weight.k = 1;
      weight.data = TensorView(base_.data(), options.dtype, {spec.cols});
    }
    by_name_[{spec.layer, spec.name}] = weight;
    if (!shares || spec.name != "embed") bytes_ += weight.data.size_bytes();
  }
  const int64_t positions =
      options.max_positions > 0 ? options.max_positions : config.max_position_embeddings;
  const TensorView table(base_.data(), DType::kF32, {positions, config.head_dim});
  by_name_[{-1, "cos_sin"}] = {.data = table, .n = positions, .k = config.head_dim};
  bytes_ += table.size_bytes();
}

PackedWeight UnloadedWeights::weight(std::string_view name, int layer) const {
  return find_weight(by_name_, name, layer);
}

bool WeightStore::contains(std::string_view name, int layer) const {
  return by_name_.contains(std::pair<int, std::string>(layer, name));
}

int64_t WeightStore::bytes() const {
  int64_t total = 0;
  for (const auto& [name, bytes] : bytes_by_name_) total += bytes;
  return total;
}

}  // namespace nanoflow
