// Checks the CUDA attention kernels against a float64 reference with derived bounds (odd lengths,
// page borders, windows, groups, head dimensions, padding, poisoned memory, graph replay with other
// counts), then times them against the HBM read rate and the sustained GEMM rate of the same run.
//
// Usage: cuda_attention_bench [check] [decode] [prefill] [seconds per entry]
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "backend/cuda/cuda.h"
#include "backend/cuda/kernels.h"
#include "cuda_ceilings.h"

namespace nanoflow {
namespace {

using cuda::cuda_check;
using cuda::DeviceBuffer;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

cuda::DeviceLimits limits() {
  cudaDeviceProp prop{};
  cuda_check(cudaGetDeviceProperties(&prop, 0), "device properties");
  cuda::DeviceLimits d;
  d.name = prop.name;
  d.compute_major = prop.major;
  d.compute_minor = prop.minor;
  d.num_sms = prop.multiProcessorCount;
  d.shared_bytes_per_block = static_cast<int64_t>(prop.sharedMemPerBlockOptin);
  d.shared_bytes_per_sm = static_cast<int64_t>(prop.sharedMemPerMultiprocessor);
  return d;
}

/// The float of a 16-bit element, and back.
float widen(uint16_t bits, DType dtype) {
  Float16 f16;
  BFloat16 bf16;
  f16.bits = bf16.bits = bits;
  return dtype == DType::kF16 ? static_cast<float>(f16) : static_cast<float>(bf16);
}
uint16_t narrow(float x, DType dtype) {
  return dtype == DType::kF16 ? Float16(x).bits : BFloat16(x).bits;
}

struct Seq {
  int64_t length = 0, rows = 0;
};

/// A step: sequences, the first `decodes` rows of which are decodes.
struct Step {
  std::vector<Seq> seqs;
  int64_t decodes = 0;
};

struct Shape {
  int64_t q_heads = 32, kv_heads = 8, dim = 128;
  DType dtype = DType::kBF16;
  int64_t window = 0;
};

constexpr int64_t kPage = 64;

/// Arrays of a step in device memory that stays where it is, so that graphs can be replayed.
class Fixture {
 public:
  Fixture(const Shape& shape, int64_t max_rows, int64_t max_seqs, int64_t num_pages, unsigned seed)
      : shape_(shape),
        max_rows_(max_rows),
        num_pages_(num_pages),
        random_(seed),
        q_stride_((shape.q_heads + 2 * shape.kv_heads) * shape.dim),
        out_stride_(shape.q_heads * shape.dim + 8) {
    page_elements_ = shape.kv_heads * kPage * shape.dim;
    k_ = DeviceBuffer(num_pages * page_elements_ * 2);
    v_ = DeviceBuffer(num_pages * page_elements_ * 2);
    q_ = DeviceBuffer(max_rows * q_stride_ * 2);
    out_ = DeviceBuffer(max_rows * out_stride_ * 2);
    positions_ = DeviceBuffer(max_rows * 4);
    row_seq_ = DeviceBuffer(max_rows * 4);
    indptr_ = DeviceBuffer((max_seqs + 1) * 4);
    indices_ = DeviceBuffer(num_pages * 4);
    header_ = DeviceBuffer(sizeof(StepHeader));
    host_k_.resize(static_cast<size_t>(num_pages * page_elements_));
    host_v_.resize(host_k_.size());
    host_q_.resize(static_cast<size_t>(max_rows * q_stride_));
    std::normal_distribution<float> normal;
    for (uint16_t& x : normals_) x = narrow(normal(random_), shape.dtype);
    for (size_t i = 0; i < wide_.size(); ++i)
      wide_[i] = widen(static_cast<uint16_t>(i), shape.dtype);
  }

  /// Uploads a step with fresh random data; everything that no row may touch is NaN.
  void set(const Step& step) {
    step_ = step;
    const uint16_t nan = 0x7fff;  // in both dtypes
    std::fill(host_k_.begin(), host_k_.end(), nan);
    std::fill(host_v_.begin(), host_v_.end(), nan);
    for (uint16_t& x : host_q_) x = draw();
    rows_.clear();
    row_seqs_.clear();
    std::vector<int32_t> pages(static_cast<size_t>(num_pages_));
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), random_);
    page_start_ = {0};
    pages_ = pages;
    for (size_t s = 0; s < step.seqs.size(); ++s) {
      const Seq& seq = step.seqs[s];
      for (int64_t t = 0; t < seq.length; ++t) {
        const int64_t page = pages[static_cast<size_t>(page_start_.back() + t / kPage)];
        for (int64_t h = 0; h < shape_.kv_heads; ++h)
          for (int64_t i = 0; i < shape_.dim; ++i) {
            const auto at = static_cast<size_t>(offset(page, h, t % kPage) + i);
            host_k_[at] = draw();
            host_v_[at] = draw();
          }
      }
      for (int64_t r = 0; r < seq.rows; ++r) {
        rows_.push_back(static_cast<int32_t>(seq.length - seq.rows + r));
        row_seqs_.push_back(static_cast<int32_t>(s));
      }
      page_start_.push_back(page_start_.back() +
                            static_cast<int32_t>((seq.length + kPage - 1) / kPage));
    }
    live_ = static_cast<int64_t>(rows_.size());
    rows_.resize(static_cast<size_t>(max_rows_), -123456);
    row_seqs_.resize(rows_.size(), 7654321);
    const StepHeader header{static_cast<int32_t>(live_), static_cast<int32_t>(step.decodes),
                            static_cast<int32_t>(step.seqs.size()), 0};
    upload(k_, host_k_);
    upload(v_, host_v_);
    upload(q_, host_q_);
    upload(positions_, rows_);
    upload(row_seq_, row_seqs_);
    upload(indptr_, page_start_);
    upload(indices_, pages_);
    upload(header_, std::vector<StepHeader>{header});
    poison();
  }

  void poison() {
    cuda_check(cudaMemset(out_.data(), 0x7b, static_cast<size_t>(out_.size())), "memset");
  }

  [[nodiscard]] PagedAttentionArgs args(Phase phase, RowRange rows) const {
    PagedAttentionArgs a;
    const Device device{Device::Kind::kCuda, 0};
    auto* q = static_cast<uint16_t*>(q_.data()) + rows.begin * q_stride_;
    auto* out = static_cast<uint16_t*>(out_.data()) + rows.begin * out_stride_;
    const int64_t cols = shape_.q_heads * shape_.dim;
    a.q = TensorView(q, shape_.dtype, {rows.size(), q_stride_}, device).slice_cols(0, cols);
    a.out = TensorView(out, shape_.dtype, {rows.size(), out_stride_}, device).slice_cols(0, cols);
    a.num_q_heads = shape_.q_heads;
    a.num_kv_heads = shape_.kv_heads;
    a.head_dim = shape_.dim;
    a.cache = {k_.data(), v_.data(),      shape_.dtype, num_pages_,
               kPage,     page_elements_, shape_.dim,   kPage * shape_.dim};
    a.step.header = static_cast<const StepHeader*>(header_.data());
    a.step.positions = TensorView(positions_.data(), DType::kI32, {max_rows_}, device);
    a.step.row_seq = TensorView(row_seq_.data(), DType::kI32, {max_rows_}, device);
    a.step.kv_page_indptr = TensorView(indptr_.data(), DType::kI32, {indptr_.size() / 4}, device);
    a.step.kv_page_indices = TensorView(indices_.data(), DType::kI32, {num_pages_}, device);
    a.rows = rows;
    a.phase = phase;
    a.scale = 1 / std::sqrt(static_cast<float>(shape_.dim));
    a.window = shape_.window;
    return a;
  }

  /// Largest error over bound of the rows that should be computed, infinity when another element
  /// changed; the check of one launch.
  [[nodiscard]] double error(Phase phase, RowRange range) const {
    const std::vector<uint16_t> out = output();
    const int64_t begin =
        phase == Phase::kPrefill ? std::max(range.begin, step_.decodes) : range.begin;
    const int64_t end =
        std::min({range.end, live_, phase == Phase::kDecode ? step_.decodes : live_});
    std::atomic<int64_t> next{0};
    std::vector<double> worst(16, 0);
    std::vector<std::thread> threads;
    for (double& w : worst)
      threads.emplace_back([&] {
        for (int64_t t; (t = next++) < max_rows_;) {
          const bool computed = begin <= t && t < end;
          for (int64_t h = 0; h < shape_.q_heads && computed; ++h)
            w = std::max(w, row_error(t, h, out.data() + t * out_stride_ + h * shape_.dim));
          const int64_t untouched = computed ? shape_.q_heads * shape_.dim : 0;
          for (int64_t i = untouched; i < out_stride_; ++i)
            if (out[static_cast<size_t>(t * out_stride_ + i)] != 0x7b7b) w = INFINITY;
        }
      });
    for (std::thread& t : threads) t.join();
    return *std::max_element(worst.begin(), worst.end());
  }

  [[nodiscard]] int64_t max_rows() const { return max_rows_; }
  [[nodiscard]] std::vector<uint16_t> output() const {
    std::vector<uint16_t> out(static_cast<size_t>(max_rows_ * out_stride_));
    cuda_check(cudaMemcpy(out.data(), out_.data(), out.size() * 2, cudaMemcpyDeviceToHost), "out");
    return out;
  }

 private:
  [[nodiscard]] int64_t offset(int64_t page, int64_t head, int64_t slot) const {
    return page * page_elements_ + (head * kPage + slot) * shape_.dim;
  }
  /// One of 64k normal values.
  uint16_t draw() { return normals_[random_() % normals_.size()]; }
  template <typename T>
  static void upload(const DeviceBuffer& to, const std::vector<T>& from) {
    cuda_check(cudaMemcpy(to.data(), from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice),
               "upload");
  }

  /// Sources of error: weights rounded to the activation dtype; scores and sums in float32, which
  /// the tensor cores truncate; one rounding of the result.
  [[nodiscard]] double row_error(int64_t row, int64_t head, const uint16_t* got) const {
    const auto t = static_cast<size_t>(row);
    const int64_t end = rows_[t] + 1;
    const int64_t begin = shape_.window > 0 ? std::max<int64_t>(0, end - shape_.window) : 0;
    const int64_t kv_head = head / (shape_.q_heads / shape_.kv_heads), dim = shape_.dim;
    const double scale = 1 / std::sqrt(static_cast<double>(static_cast<float>(dim)));
    const uint16_t* q = host_q_.data() + row * q_stride_ + head * dim;
    std::vector<double> weights, sum(static_cast<size_t>(dim)), magnitude(sum.size()),
        qf(sum.size());
    double q_norm = 0, k_norm = 0, best = -INFINITY, total = 0, biggest = 0;
    for (int64_t i = 0; i < dim; ++i) {
      qf[static_cast<size_t>(i)] = wide_[q[i]];
      q_norm += qf[static_cast<size_t>(i)] * qf[static_cast<size_t>(i)];
    }
    const auto slot = [&](int64_t p) {
      const int64_t page =
          pages_[static_cast<size_t>(page_start_[static_cast<size_t>(row_seqs_[t])] + p / kPage)];
      return offset(page, kv_head, p % kPage);
    };
    for (int64_t p = begin; p < end; ++p) {
      const uint16_t* k = host_k_.data() + slot(p);
      double dot = 0, norm = 0;
      for (int64_t i = 0; i < dim; ++i) {
        const double x = wide_[k[i]];
        dot += x * qf[static_cast<size_t>(i)];
        norm += x * x;
      }
      k_norm = std::max(k_norm, norm);
      weights.push_back(dot * scale);
      best = std::max(best, dot * scale);
    }
    for (double& w : weights) total += w = std::exp(w - best);
    for (int64_t p = begin; p < end; ++p) {
      const uint16_t* v = host_v_.data() + slot(p);
      const double w = weights[static_cast<size_t>(p - begin)] / total;
      for (size_t i = 0; i < sum.size(); ++i) {
        const double x = wide_[v[i]];
        sum[i] += w * x;
        magnitude[i] += w * std::abs(x);
        biggest = std::max(biggest, std::abs(x));
      }
    }
    const double eps = 1.1920929e-7, unit = shape_.dtype == DType::kF16 ? 0x1p-11 : 0x1p-8;
    const double score =
        std::sqrt(q_norm * k_norm) * scale * (static_cast<double>(dim) / 8 + 8) * eps;
    const double relative =
        unit + 2 * score + 8 * eps + (static_cast<double>(end - begin) / 4 + 64) * eps;
    // Weights under float16's range vanish.
    const double lost =
        shape_.dtype == DType::kF16 ? 0x1p-24 * biggest * static_cast<double>(end - begin) : 0;
    double worst = 0;
    for (size_t i = 0; i < sum.size(); ++i) {
      const double bound = relative * magnitude[i] + lost + unit * std::abs(sum[i]) + 1e-7;
      const double error = std::abs(wide_[got[i]] - sum[i]);
      worst = std::max(worst, std::isfinite(error) ? error / bound : INFINITY);
    }
    return worst;
  }

  Shape shape_;
  int64_t max_rows_, num_pages_;
  std::minstd_rand random_;
  int64_t q_stride_, out_stride_, page_elements_ = 0, live_ = 0;
  DeviceBuffer k_, v_, q_, out_, positions_, row_seq_, indptr_, indices_, header_;
  std::vector<uint16_t> host_k_, host_v_, host_q_;
  std::vector<uint16_t> normals_ = std::vector<uint16_t>(1 << 16);
  std::vector<float> wide_ = std::vector<float>(1 << 16);  ///< every 16-bit value
  std::vector<int32_t> rows_, row_seqs_, page_start_, pages_;
  Step step_;
};

/// A workspace full of NaN, so that nothing relies on zeros.
struct Workspace {
  DeviceBuffer buffer;
  TensorView view;
  Workspace(const PagedAttentionArgs& args, int sms, const cuda::DeviceLimits& device)
      : buffer(cuda::workspace_bytes(args, sms, device)) {
    poison();
    view = TensorView(buffer.data(), DType::kU8, {buffer.size()}, {Device::Kind::kCuda, 0});
  }
  void poison() const {
    cuda_check(cudaMemset(buffer.data(), 0xff, static_cast<size_t>(buffer.size())), "memset");
  }
};

class Checks {
 public:
  explicit Checks(const cuda::DeviceLimits& device) : device_(device) {}

  void run() {
    for (const bool hopper : {true, false}) {
      cuda::DeviceLimits limits = device_;
      if (!hopper) limits.compute_major = 8;  // the kernels for older GPUs
      hopper_ = hopper && device_.is_sm90();
      if (hopper && !hopper_) continue;
      using Heads = std::tuple<int64_t, int64_t, int64_t>;
      for (const auto& [q, kv, dim] : {Heads{8, 2, 128},
                                       {9, 3, 64},
                                       {16, 1, 128},
                                       {3, 3, 80},
                                       {6, 2, 96},
                                       {4, 1, 256},
                                       {16, 1, 64},
                                       {7, 1, 128},
                                       {2, 2, 24},
                                       {3, 3, 40},
                                       {3, 3, 128}}) {
        shape({q, kv, dim, DType::kBF16, 0}, limits);
        shape({q, kv, dim, DType::kBF16, 100}, limits);
        if (dim % 64 == 0) shape({q, kv, dim, DType::kF16, 0}, limits);
      }
      for (const auto& [q, kv, dim] :
           {Heads{16, 2, 128}, {4, 1, 128}, {3, 3, 64}, {16, 1, 64}, {2, 2, 80}, {2, 1, 256}})
        stress({q, kv, dim, DType::kBF16, 0}, limits);
      replay({32, 8, 128, DType::kBF16, 0}, limits);
      replay({9, 3, 64, DType::kF16, 70}, limits);
    }
    std::printf("correctness: %d launches checked, %d wrong, largest error / bound %.3f\n", count_,
                wrong_, worst_);
  }

 private:
  void shape(const Shape& s, const cuda::DeviceLimits& limits) {
    Fixture f(s, 640, 64, 96, ++seed_);
    const Step decodes{{{1, 1}, {2, 1}, {63, 1}, {64, 1}, {65, 1}, {129, 1}, {1000, 1}, {333, 1}},
                       8};
    const Step mixed{{{700, 1}, {1, 1}, {64, 1}, {200, 200}, {333, 7}, {129, 65}, {640, 130}}, 3};
    const Step chunks{{{128, 128}, {300, 1}, {257, 129}, {64, 64}, {1, 1}}, 0};
    const Step one{{{4500, 1}}, 1};
    const Step rows_of_one{{{450, 5}, {70, 3}}, 8};  // several decode rows of a sequence
    for (const int sms : {1, 16, device_.num_sms}) {
      check(f, decodes, Phase::kDecode, sms, limits, s);
      check(f, one, Phase::kDecode, sms, limits, s);
    }
    check(f, rows_of_one, Phase::kAny, 33, limits, s);
    check(f, decodes, Phase::kPrefill, 16, limits, s);
    check(f, mixed, Phase::kAny, device_.num_sms, limits, s);
    check(f, mixed, Phase::kPrefill, 5, limits, s);
    check(f, mixed, Phase::kDecode, 5, limits, s);
    check(f, chunks, Phase::kAny, 20, limits, s);
    f.set(mixed);
    for (const RowRange r : {RowRange{0, 2}, {1, 77}, {2, 250}, {203, 404}, {400, 640}})
      launch(f, Phase::kAny, r, 7, limits, s);
  }

  void check(Fixture& f, const Step& step, Phase phase, int sms, const cuda::DeviceLimits& limits,
             const Shape& s) {
    f.set(step);
    launch(f, phase, {0, f.max_rows()}, sms, limits, s);
  }

  void launch(Fixture& f, Phase phase, RowRange rows, int sms, const cuda::DeviceLimits& limits,
              const Shape& s) {
    const PagedAttentionArgs args = f.args(phase, rows);
    if (!cuda::supports(args, limits)) {
      report(INFINITY, s, "not supported");
      return;
    }
    f.poison();
    const Workspace workspace(args, sms, limits);
    cuda::run(args, {stream_.get(), &limits, sms, workspace.view, rows, args.step.header});
    cuda_check(cudaStreamSynchronize(stream_.get()), "attention");
    report(f.error(phase, rows), s,
           "phase " + std::to_string(static_cast<int>(phase)) + " rows " +
               std::to_string(rows.begin) + ".." + std::to_string(rows.end) + " sms " +
               std::to_string(sms));
  }

  /// Many sequences and chunks, many launches: results must not depend on timing.
  void stress(const Shape& s, const cuda::DeviceLimits& limits) {
    Step step{{}, 600};
    for (int64_t i = 0; i < 600; ++i) step.seqs.push_back({1 + (i * 7919) % 331, 1});
    for (int64_t i = 0; i < 8; ++i) step.seqs.push_back({300 + i * 37, 40 + i * 31});
    Fixture f(s, 1800, 640, 2400, ++seed_);
    f.set(step);
    const RowRange rows{0, f.max_rows()};
    launch(f, Phase::kAny, rows, device_.num_sms, limits, s);
    const PagedAttentionArgs args = f.args(Phase::kAny, rows);
    const Workspace workspace(args, device_.num_sms, limits);
    const std::vector<uint16_t> first = f.output();
    for (int i = 0; i < 20; ++i) {
      for (int j = 0; j < 10; ++j)
        cuda::run(args, {stream_.get(), &limits, device_.num_sms, workspace.view, rows,
                         args.step.header});
      cuda_check(cudaStreamSynchronize(stream_.get()), "attention");
      report(f.output() == first ? 0 : INFINITY, s, "repetition differs");
    }
  }

  /// One captured graph, five steps behind it.
  void replay(const Shape& s, const cuda::DeviceLimits& limits) {
    Fixture f(s, 400, 64, 96, ++seed_);
    const RowRange rows{0, f.max_rows()};
    const PagedAttentionArgs args = f.args(Phase::kAny, rows);
    const Workspace workspace(args, 48, limits);
    f.set({{{10, 1}}, 1});
    cuda_check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "capture");
    cuda::run(args, {stream_.get(), &limits, 48, workspace.view, rows, args.step.header});
    cudaGraph_t captured = nullptr;
    cuda_check(cudaStreamEndCapture(stream_.get(), &captured), "capture");
    const cuda::Graph graph(captured);
    const std::vector<Step> steps = {{{{10, 1}}, 1},
                                     {{{700, 1}, {5, 1}, {300, 300}}, 2},
                                     {{{2000, 1}, {1000, 390}}, 1},
                                     {{{100, 100}, {64, 64}}, 0},
                                     {{}, 0},
                                     {{{33, 1}, {4000, 1}, {129, 1}}, 3}};
    for (const Step& step : steps) {
      f.set(step);
      workspace.poison();
      cuda_check(cudaGraphLaunch(graph.get(), stream_.get()), "replay");
      cuda_check(cudaStreamSynchronize(stream_.get()), "replay");
      report(f.error(Phase::kAny, rows), s, "replay");
    }
  }

  void report(double error, const Shape& s, const std::string& what) {
    ++count_;
    worst_ = std::max(worst_, error);
    if (error <= 1) return;
    if (++wrong_ <= 40)
      std::printf("WRONG %s %s heads %ld/%ld dim %ld window %ld: %s: error / bound %.3g\n",
                  hopper_ ? "sm90" : "sm80", s.dtype == DType::kF16 ? "f16" : "bf16", s.q_heads,
                  s.kv_heads, s.dim, s.window, what.c_str(), error);
    std::fflush(stdout);
  }

  cuda::DeviceLimits device_;
  cuda::Stream stream_;
  unsigned seed_ = 0;
  int count_ = 0, wrong_ = 0;
  double worst_ = 0;
  bool hopper_ = false;
};

class Timing {
 public:
  Timing(const cuda::DeviceLimits& device, double seconds) : device_(device), seconds_(seconds) {}

  void run(bool decode_entries, bool prefill_entries) {
    const int64_t bytes = int64_t{8} << 30;
    kv_ = DeviceBuffer(bytes);
    fill_random(kv_, bytes);
    q_ = DeviceBuffer(int64_t{8192} * 6144 * 2);
    fill_random(q_, q_.size());
    out_ = DeviceBuffer(int64_t{8192} * 4096 * 2);
    workspace_ = DeviceBuffer(int64_t{64} << 20);
    sink_ = DeviceBuffer(16);
    gemm_ = gemm_rate();
    read_ = static_cast<double>(bytes) / time([&](int) {
              bench::read_memory(kv_.data(), bytes, device_.num_sms,
                                 static_cast<float*>(sink_.data()), stream_.get());
            });
    std::printf("%s: GEMM 8192^3 sustained %.1f TF/s, HBM read %.0f GB/s\n", device_.name.c_str(),
                gemm_ / 1e12, read_ / 1e9);
    if (decode_entries) decodes();
    if (prefill_entries) prefills();
  }

 private:
  void decodes() {
    std::printf("%-34s %5s %9s %8s %7s\n", "decode", "sms", "us", "GB/s", "of HBM");
    const auto uneven = [](int64_t count, int64_t mean) {
      std::minstd_rand random(5);
      std::vector<Seq> seqs;
      for (int64_t i = 0; i < count; ++i)
        seqs.push_back(
            {mean / 2 + static_cast<int64_t>(random() % static_cast<unsigned>(mean)), 1});
      return seqs;
    };
    const std::vector<Seq> many = uneven(1024, 1000);
    for (const int sms : {device_.num_sms, 96, 64, 48, 40, 32, 24, 16})
      decode("32/8 d128 1024 x ~1000", many, {}, sms, true);
    decode("same, cp.async kernel", many, {}, device_.num_sms, false);
    decode("32/8 d128 64 x 8192", std::vector<Seq>(64, {8192, 1}), {}, device_.num_sms, true);
    decode("32/8 d128 1 x 32768", {{32768, 1}}, {}, device_.num_sms, true);
    decode("32/8 d128 1 x 1024", {{1024, 1}}, {}, device_.num_sms, true);
    decode("32/8 d128 256 x ~128", uneven(256, 128), {}, device_.num_sms, true);
    std::vector<Seq> skewed = uneven(255, 400);
    skewed.push_back({120000, 1});
    decode("32/8 d128 255 x ~400 + 1 x 120k", skewed, {}, device_.num_sms, true);
    decode("32/8 d64 1024 x ~1000", many, {32, 8, 64}, device_.num_sms, true);
    decode("32/8 d64 1024 x ~1000", many, {32, 8, 64}, 40, true);
    decode("32/32 d80 256 x ~1000", uneven(256, 1000), {32, 32, 80}, device_.num_sms, true);
    decode("64/8 d128 512 x ~1000", uneven(512, 1000), {64, 8, 128}, device_.num_sms, true);
    decode("8/1 d256 1024 x ~2000", uneven(1024, 2000), {8, 1, 256}, device_.num_sms, true);
  }

  void prefills() {
    std::printf("%-34s %5s %9s %8s %7s\n", "prefill", "sms", "us", "TF/s", "of GEMM");
    const int all = device_.num_sms;
    prefill("32/8 d128 2048 of 2048", {{2048, 2048}}, {}, all, true);
    prefill("32/8 d128 2048 of 4096", {{4096, 2048}}, {}, all, true);
    prefill("32/8 d128 2048 of 8192", {{8192, 2048}}, {}, all, true);
    for (const int sms : {96, 64, 32})
      prefill("32/8 d128 2048 of 8192", {{8192, 2048}}, {}, sms, true);
    prefill("32/8 d128 8192 of 8192", {{8192, 8192}}, {}, all, true);
    prefill("32/8 d128 2 x 1024 of 1024", {{1024, 1024}, {1024, 1024}}, {}, all, true);
    prefill("32/8 d128 16 x 128 of ~1000", std::vector<Seq>(16, {1000, 128}), {}, all, true);
    prefill("32/32 d128 2048 of 4096", {{4096, 2048}}, {32, 32, 128}, all, true);
    prefill("32/8 d64 2048 of 8192", {{8192, 2048}}, {32, 8, 64}, all, true);
    prefill("32/8 d128 2048 of 8192, warps", {{8192, 2048}}, {}, all, false);
    prefill("32/8 d96 2048 of 8192", {{8192, 2048}}, {32, 8, 96}, all, true);
  }

  /// Nearly normal 16-bit floats of magnitude about 1: random bits would be infinities and NaN.
  void fill_random(const DeviceBuffer& to, int64_t bytes) {
    constexpr int64_t kBlock = int64_t{1} << 25;
    std::vector<uint16_t> block(kBlock / 2);
    std::minstd_rand random(3);
    for (uint16_t& x : block) {
      float sum = -6;
      for (int i = 0; i < 12; ++i) sum += static_cast<float>(random() % 65536) / 65536;
      x = BFloat16(sum).bits;
    }
    for (int64_t at = 0; at < bytes; at += kBlock)
      cuda_check(
          cudaMemcpy(static_cast<char*>(to.data()) + at, block.data(),
                     static_cast<size_t>(std::min(kBlock, bytes - at)), cudaMemcpyHostToDevice),
          "fill");
  }

  PagedAttentionArgs args_of(const std::vector<Seq>& seqs, const Shape& s, Phase phase) {
    std::vector<int32_t> positions, row_seq, indptr = {0}, indices;
    for (const Seq& seq : seqs) {
      for (int64_t r = 0; r < seq.rows; ++r) {
        positions.push_back(static_cast<int32_t>(seq.length - seq.rows + r));
        row_seq.push_back(static_cast<int32_t>(indptr.size() - 1));
      }
      indptr.push_back(indptr.back() + static_cast<int32_t>((seq.length + kPage - 1) / kPage));
    }
    const int64_t page_elements = 2 * s.kv_heads * kPage * s.dim;  // K and V beside each other
    num_pages_ = kv_.size() / (page_elements * 2);
    // Small caches leave the upper half of the pool to the rotations of attention_time().
    const int64_t half = num_pages_ / 2;
    std::vector<int32_t> pages(static_cast<size_t>(indptr.back() <= half ? half : num_pages_));
    std::iota(pages.begin(), pages.end(), 0);
    std::minstd_rand random(1);
    std::shuffle(pages.begin(), pages.end(), random);
    for (int32_t i = 0; i < indptr.back(); ++i)
      indices.push_back(pages[static_cast<size_t>(i) % pages.size()]);
    const auto rows = static_cast<int64_t>(positions.size());
    const StepHeader header{static_cast<int32_t>(rows),
                            phase == Phase::kDecode ? static_cast<int32_t>(rows) : 0,
                            static_cast<int32_t>(seqs.size()), 0};
    keep_.clear();
    const Device device{Device::Kind::kCuda, 0};
    const auto keep = [&](const void* data, size_t size) {
      keep_.emplace_back(static_cast<int64_t>(size));
      cuda_check(cudaMemcpy(keep_.back().data(), data, size, cudaMemcpyHostToDevice), "upload");
      return keep_.back().data();
    };
    const auto ints = [&](const std::vector<int32_t>& v) {
      return TensorView(keep(v.data(), v.size() * 4), DType::kI32, {static_cast<int64_t>(v.size())},
                        device);
    };
    PagedAttentionArgs a;
    const int64_t cols = s.q_heads * s.dim;
    a.q = TensorView(q_.data(), s.dtype, {rows, cols}, device);
    a.out = TensorView(out_.data(), s.dtype, {rows, cols}, device);
    a.num_q_heads = s.q_heads;
    a.num_kv_heads = s.kv_heads;
    a.head_dim = s.dim;
    a.cache = {kv_.data(), static_cast<uint16_t*>(kv_.data()) + page_elements / 2,
               s.dtype,    num_pages_,
               kPage,      page_elements,
               s.dim,      kPage * s.dim};
    a.step.header = static_cast<const StepHeader*>(keep(&header, sizeof header));
    a.step.positions = ints(positions);
    a.step.row_seq = ints(row_seq);
    a.step.kv_page_indptr = ints(indptr);
    a.step.kv_page_indices = ints(indices);
    a.rows = {0, rows};
    a.phase = phase;
    a.scale = 1 / std::sqrt(static_cast<float>(s.dim));
    return a;
  }

  double attention_time(const PagedAttentionArgs& base, int sms, bool hopper, int rotations) {
    cuda::DeviceLimits limits = device_;
    if (!hopper) limits.compute_major = 8;
    const TensorView workspace(workspace_.data(), DType::kU8, {workspace_.size()},
                               {Device::Kind::kCuda, 0});
    if (cuda::workspace_bytes(base, sms, limits) > workspace_.size()) return NAN;
    // Small caches are read at other addresses each time, since the L2 would keep them.
    return time([&](int i) {
      PagedAttentionArgs a = base;
      const int64_t shift = rotations > 1 ? (i % rotations) * (num_pages_ / rotations / 2) : 0;
      a.cache.k = static_cast<uint16_t*>(a.cache.k) + shift * a.cache.page_stride;
      a.cache.v = static_cast<uint16_t*>(a.cache.v) + shift * a.cache.page_stride;
      a.cache.num_pages -= shift;
      cuda::run(a, {stream_.get(), &limits, sms, workspace, a.rows, a.step.header});
    });
  }

  void decode(const char* name, const std::vector<Seq>& seqs, const Shape& s, int sms,
              bool hopper) {
    const PagedAttentionArgs a = args_of(seqs, s, Phase::kDecode);
    double tokens = 0;
    for (const Seq& seq : seqs) tokens += static_cast<double>(seq.length);
    const double bytes = tokens * static_cast<double>(2 * s.kv_heads * s.dim * 2);
    const double us = attention_time(a, sms, hopper, bytes < 1e9 ? 8 : 1);
    std::printf("%-34s %5d %9.1f %8.0f %6.1f%%\n", name, sms, us * 1e6, bytes / us / 1e9,
                100 * bytes / us / read_);
    std::fflush(stdout);
  }

  void prefill(const char* name, const std::vector<Seq>& seqs, const Shape& s, int sms,
               bool hopper) {
    const PagedAttentionArgs a = args_of(seqs, s, Phase::kPrefill);
    double keys = 0;
    for (const Seq& seq : seqs)
      for (int64_t r = 0; r < seq.rows; ++r) keys += static_cast<double>(seq.length - r);
    const double flops = keys * 4 * static_cast<double>(s.q_heads * s.dim);
    const double us = attention_time(a, sms, hopper, 1);
    std::printf("%-34s %5d %9.1f %8.1f %6.1f%%\n", name, sms, us * 1e6, flops / us / 1e12,
                100 * flops / us / gemm_);
    std::fflush(stdout);
  }

  /// Seconds of one call: a graph of eight, replayed for the entry's seconds after a third of them
  /// as warm-up.
  double time(const std::function<void(int)>& call) {
    constexpr int kCalls = 8;
    cuda_check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < kCalls; ++i) call(i);
    cudaGraph_t captured = nullptr;
    cuda_check(cudaStreamEndCapture(stream_.get(), &captured), "capture");
    const cuda::Graph graph(captured);
    const auto for_seconds = [&](double seconds) {
      const double start = now();
      int replays = 0;
      while (now() - start < seconds) {
        for (int i = 0; i < 4; ++i, ++replays)
          cuda_check(cudaGraphLaunch(graph.get(), stream_.get()), "replay");
        cuda_check(cudaStreamSynchronize(stream_.get()), "replay");
      }
      return replays;
    };
    for_seconds(seconds_ / 3);
    const cuda::Event begin(cuda::Event::Timing::kOn), end(cuda::Event::Timing::kOn);
    cuda_check(cudaEventRecord(begin.get(), stream_.get()), "event");
    const int replays = for_seconds(seconds_);
    cuda_check(cudaEventRecord(end.get(), stream_.get()), "event");
    cuda_check(cudaEventSynchronize(end.get()), "event");
    float ms = 0;
    cuda_check(cudaEventElapsedTime(&ms, begin.get(), end.get()), "event");
    return static_cast<double>(ms) / 1e3 / replays / kCalls;
  }

  double gemm_rate() {
    constexpr int64_t n = 8192;
    cublasLtHandle_t handle = nullptr;
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t layout = nullptr;
    cublasLtMatmulPreference_t preference = nullptr;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    size_t workspace = static_cast<size_t>(workspace_.size());
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    bool ok = cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS;
    ok = ok &&
         cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;
    ok = ok && cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof transposed) == CUBLAS_STATUS_SUCCESS;
    ok = ok && cublasLtMatrixLayoutCreate(&layout, CUDA_R_16BF, n, n, n) == CUBLAS_STATUS_SUCCESS;
    ok = ok && cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS;
    ok = ok && cublasLtMatmulPreferenceSetAttribute(
                   preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                   sizeof workspace) == CUBLAS_STATUS_SUCCESS;
    ok = ok &&
         cublasLtMatmulAlgoGetHeuristic(handle, desc, layout, layout, layout, layout, preference, 1,
                                        &found, &count) == CUBLAS_STATUS_SUCCESS;
    if (!ok || count == 0) throw CudaError("no cuBLASLt algorithm");
    auto* a = static_cast<uint16_t*>(kv_.data());
    auto* d = static_cast<uint16_t*>(q_.data());
    const DeviceBuffer product(n * n * 2);
    d = static_cast<uint16_t*>(product.data());
    const float one = 1, zero = 0;
    const auto call = [&](int) {
      cublasLtMatmul(handle, desc, &one, a, layout, a + n * n, layout, &zero, d, layout, d, layout,
                     &found.algo, workspace_.data(), workspace, stream_.get());
    };
    time(call);  // to the power cap
    const double seconds = time(call);
    return 2.0 * n * n * n / seconds;
  }

  cuda::DeviceLimits device_;
  double seconds_;
  cuda::Stream stream_;
  DeviceBuffer kv_, q_, out_, workspace_, sink_;
  std::vector<DeviceBuffer> keep_;
  int64_t num_pages_ = 0;
  double gemm_ = 0, read_ = 0;
};

int main_of(int argc, char** argv) {
  bool check = false, decode = false, prefill = false;
  double seconds = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "check")
      check = true;
    else if (arg == "decode")
      decode = true;
    else if (arg == "prefill")
      prefill = true;
    else
      seconds = std::atof(argv[i]);
  }
  if (!check && !decode && !prefill) check = decode = prefill = true;
  const cuda::DeviceLimits device = limits();
  if (check) Checks(device).run();
  std::fflush(stdout);
  if (decode || prefill) Timing(device, seconds).run(decode, prefill);
  return 0;
}

}  // namespace
}  // namespace nanoflow

int main(int argc, char** argv) {
  try {
    return nanoflow::main_of(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
