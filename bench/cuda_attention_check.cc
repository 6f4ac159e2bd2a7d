// Odd lengths, page borders, windows, groups, head dimensions, ranges cut anywhere, padding, memory
// full of NaN, graph replay with other counts, and repetition: results must not depend on timing.
#include "cuda_attention_check.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "backend/cuda/cuda.h"
#include "backend/cuda/kernels.h"

namespace nanoflow::bench {
namespace {

using cuda::cuda_check;
using cuda::DeviceBuffer;

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
    threads.reserve(worst.size());
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
    double q_norm = 0, k_norm = 0, best = -HUGE_VAL, total = 0, biggest = 0;
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

  int run() {
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
    return wrong_;
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

}  // namespace

int check_attention(const cuda::DeviceLimits& device) {
  return Checks(device).run();
}

}  // namespace nanoflow::bench
