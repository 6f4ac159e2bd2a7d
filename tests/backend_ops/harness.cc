#include "harness.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "backend/cpu/backend.h"
#ifdef NANOFLOW_HAS_CUDA
#include "backend/cuda/device.h"
#include "backend/cuda/factory.h"
#endif

namespace nanoflow::testing_ops {
namespace {

/// Everything a case leaves behind on one backend.
struct After {
  std::vector<HostTensor> tensors;
  HostTensor k, v;
  bool is_product = false;
};

bool wants_cuda() {
  const char* device = std::getenv("NANOFLOW_TEST_DEVICE");
  return device != nullptr && std::string(device) == "cuda";
}

/// Skips every test when the GPU is asked for and there is none; a GPU that cannot be used fails.
class DeviceCheck final : public testing::Environment {
 public:
  void SetUp() override {
    if (!wants_cuda()) return;
#ifdef NANOFLOW_HAS_CUDA
    const cuda::DeviceSurvey survey = cuda::survey_devices();
    if (!survey.problem.empty()) FAIL() << survey.problem;
    if (survey.devices.empty()) GTEST_SKIP() << "no NVIDIA GPU is visible";
#else
    FAIL() << "NANOFLOW_TEST_DEVICE=cuda, but these tests were built without CUDA";
#endif
  }
};
const testing::Environment* const kDeviceCheck =
    testing::AddGlobalTestEnvironment(new DeviceCheck);  // GoogleTest owns it

/// Library products compute whole tiles: on a GPU they may write padding rows, but nothing that
/// would spoil a later sum. Checks that, and restores the rows for the comparison.
void forgive_padding(HostTensor& got, const HostTensor& before, int64_t begin) {
  const auto row_bytes = static_cast<size_t>(got.cols * dtype_size(got.dtype));
  for (int64_t r = begin; r < got.rows; ++r) {
    for (int64_t c = 0; c < got.cols; ++c)
      EXPECT_TRUE(std::isfinite(got.get(r, c))) << "padding row " << r << " col " << c;
    const int64_t at = got.element_index(r, 0) * dtype_size(got.dtype);
    std::memcpy(got.bytes.data() + at, before.bytes.data() + at, row_bytes);
  }
}

Buffer to_device(Backend& backend, const void* data, int64_t bytes) {
  Buffer host = backend.allocate_pinned(std::max<int64_t>(1, bytes));
  Buffer device = backend.allocate(std::max<int64_t>(1, bytes));
  if (bytes > 0) {
    std::memcpy(host.data(), data, static_cast<size_t>(bytes));
    backend.copy(device.view(DType::kU8, {bytes}), host.view(DType::kU8, {bytes}), 0);
    backend.synchronize();
  }
  return device;
}

std::vector<std::byte> to_host(Backend& backend, const Buffer& device) {
  const int64_t bytes = device.size();
  const Buffer host = backend.allocate_pinned(bytes);
  backend.copy(host.view(DType::kU8, {bytes}), device.view(DType::kU8, {bytes}), 0);
  backend.synchronize();
  const auto* data = static_cast<const std::byte*>(host.data());
  return {data, data + bytes};
}

}  // namespace

/// Places one case on one backend, launches it and reads it back.
class Runner {
 public:
  Runner(Backend& backend, const Case& c) : backend_(backend), case_(c) {}

  After run() {
    for (const HostTensor& t : case_.tensors) bound_.views_.push_back(place(t));
    for (const Case::Weight& w : case_.weights) bound_.weights_.push_back(prepare(w));
    place_header();
    if (!case_.kv.lengths.empty()) place_cache();
    const OpArgs args = case_.bind(bound_);
    EXPECT_TRUE(backend_.supports(args)) << op_kind_name(args);
    LaunchContext ctx{.lane = 0,
                      .sm = case_.sm,
                      .rows = case_.rows,
                      .header = case_.has_header ? bound_.step_.header : nullptr};
    const Buffer workspace = backend_.allocate(backend_.workspace_bytes(args, ctx) + 1);
    ctx.workspace = workspace.view(DType::kU8, {workspace.size()});
    backend_.launch(args, ctx);
    backend_.synchronize();
    After after = collect();
    after.is_product =
        std::holds_alternative<GemmArgs>(args) || std::holds_alternative<GroupedGemmArgs>(args);
    return after;
  }

 private:
  TensorView place(const HostTensor& t) {
    bound_.buffers_.push_back(
        to_device(backend_, t.bytes.data(), static_cast<int64_t>(t.bytes.size())));
    return bound_.buffers_.back()
        .view(t.dtype, {t.rows + 2 * HostTensor::kGuardRows, t.stride})
        .slice_rows(HostTensor::kGuardRows, HostTensor::kGuardRows + t.rows)
        .slice_cols(0, t.cols);
  }

  OwnedWeight prepare(const Case::Weight& w) {
    HostTensor data = w.data;
    const TensorView all(data.bytes.data(), data.dtype, {data.rows + 2, data.stride});
    return backend_.prepare_weight(all.slice_rows(1, data.rows + 1).slice_cols(0, data.cols), w.use,
                                   w.experts);
  }

  TensorView keep(const std::vector<int32_t>& values) {
    const auto count = static_cast<int64_t>(values.size());
    extra_.push_back(to_device(backend_, values.data(), count * 4));
    return TensorView(extra_.back().data(), DType::kI32, {count}, extra_.back().device());
  }

  void place_header() {
    extra_.push_back(to_device(backend_, &case_.header, sizeof(StepHeader)));
    bound_.step_.header = static_cast<const StepHeader*>(extra_.back().data());
  }

  [[nodiscard]] int64_t offset(int64_t page, int64_t slot, int64_t head) const {
    return page * layout_.page_stride + slot * layout_.slot_stride + head * layout_.head_stride;
  }

  /// Pages in random order, and one that belongs to nobody.
  void place_cache() {
    layout_ = backend_.kv_layout(case_.kv.shape);
    std::vector<int32_t> indptr = {0};
    for (const int64_t length : case_.kv.lengths)
      indptr.push_back(indptr.back() +
                       static_cast<int32_t>((length + layout_.page_size - 1) / layout_.page_size));
    pages_.resize(static_cast<size_t>(indptr.back()) + 1);
    std::iota(pages_.begin(), pages_.end(), 0);
    std::mt19937 shuffle(7);
    std::shuffle(pages_.begin(), pages_.end(), shuffle);
    page_begin_ = indptr;
    const int64_t element = dtype_size(case_.kv.shape.dtype);
    const auto num_pages = static_cast<int64_t>(pages_.size());
    cache_before_.assign(static_cast<size_t>(layout_.bytes_per_page * num_pages), std::byte{0x3c});
    v_offset_ = layout_.bytes_per_page / 2;
    // K and V of one page are neighbours when the page stride covers both, else two regions.
    interleaved_ = layout_.page_stride * element == layout_.bytes_per_page;
    if (!interleaved_) v_offset_ *= num_pages;
    for_each_token([&](int64_t at, const std::byte* k, const std::byte* v, int64_t bytes) {
      std::memcpy(cache_before_.data() + at, k, static_cast<size_t>(bytes));
      std::memcpy(cache_before_.data() + v_offset_ + at, v, static_cast<size_t>(bytes));
    });
    cache_ = to_device(backend_, cache_before_.data(), static_cast<int64_t>(cache_before_.size()));
    auto* base = static_cast<std::byte*>(cache_.data());
    bound_.cache_ = KvCacheView{.k = base,
                                .v = base + v_offset_,
                                .dtype = case_.kv.shape.dtype,
                                .num_pages = num_pages,
                                .page_size = layout_.page_size,
                                .page_stride = layout_.page_stride,
                                .slot_stride = layout_.slot_stride,
                                .head_stride = layout_.head_stride};
    bound_.step_.kv_page_indptr = keep(indptr);
    bound_.step_.kv_page_indices = keep(pages_);
    std::vector<int32_t> slots;
    for (const auto& [seq, position] : case_.appends)
      slots.push_back(seq < 0 ? -1 : static_cast<int32_t>(slot_of(seq, position)));
    bound_.kv_slots_ = keep(slots);
  }

  [[nodiscard]] int64_t slot_of(int64_t seq, int64_t position) const {
    const auto page =
        static_cast<size_t>(page_begin_[static_cast<size_t>(seq)] + position / layout_.page_size);
    return pages_[page] * layout_.page_size + position % layout_.page_size;
  }

  /// visit(byte offset in the cache, k row, v row, bytes) per token and head.
  template <typename Visit>
  void for_each_token(const Visit& visit) const {
    const KvContent& kv = case_.kv;
    const int64_t element = dtype_size(kv.shape.dtype), bytes = kv.shape.head_dim * element;
    int64_t token = 0;
    for (size_t s = 0; s < kv.lengths.size(); ++s)
      for (int64_t p = 0; p < kv.lengths[s]; ++p, ++token)
        for (int64_t h = 0; h < kv.shape.num_kv_heads; ++h) {
          const int64_t slot = slot_of(static_cast<int64_t>(s), p);
          const int64_t at =
              offset(slot / layout_.page_size, slot % layout_.page_size, h) * element;
          const int64_t from = kv.k.element_index(token, h * kv.shape.head_dim) * element;
          visit(at, kv.k.bytes.data() + from, kv.v.bytes.data() + from, bytes);
        }
  }

  After collect() {
    After after;
    for (size_t i = 0; i < case_.tensors.size(); ++i) {
      after.tensors.push_back(case_.tensors[i]);
      after.tensors.back().bytes = to_host(backend_, bound_.buffers_[i]);
    }
    if (case_.kv.lengths.empty()) return after;
    std::vector<std::byte> cache = to_host(backend_, cache_);
    after.k = case_.kv.k;
    after.v = case_.kv.v;
    for_each_token([&](int64_t at, const std::byte* k, const std::byte* v, int64_t bytes) {
      const auto to_k = k - case_.kv.k.bytes.data(), to_v = v - case_.kv.v.bytes.data();
      std::memcpy(after.k.bytes.data() + to_k, cache.data() + at, static_cast<size_t>(bytes));
      std::memcpy(after.v.bytes.data() + to_v, cache.data() + v_offset_ + at,
                  static_cast<size_t>(bytes));
      // What belongs to a token was compared above; the rest must be as before.
      std::memcpy(cache.data() + at, cache_before_.data() + at, static_cast<size_t>(bytes));
      std::memcpy(cache.data() + v_offset_ + at, cache_before_.data() + v_offset_ + at,
                  static_cast<size_t>(bytes));
    });
    EXPECT_TRUE(cache == cache_before_) << "a cache slot of nobody was written";
    return after;
  }

  Backend& backend_;
  const Case& case_;
  Bound bound_;
  std::vector<Buffer> extra_;
  KvLayout layout_;
  std::vector<int32_t> pages_, page_begin_;
  std::vector<std::byte> cache_before_;
  Buffer cache_;
  int64_t v_offset_ = 0;
  bool interleaved_ = true;
};

TensorView Bound::view(size_t tensor) const {
  return views_[tensor];
}

TensorView Bound::vector(size_t tensor) const {
  const TensorView& v = views_[tensor];
  NANO_CHECK(v.cols() == 1 && v.row_stride() == 1, "{} is no vector", v.to_string());
  return TensorView(v.data(), v.dtype(), {v.rows()}, v.device());
}

PackedWeight Bound::weight(size_t tensor) const {
  return weights_[tensor].packed;
}

bool is_cpu(const Backend& backend) {
  return backend.device().device.kind == Device::Kind::kHost;
}

Sides make_sides() {
  Sides sides;
  sides.reference =
      std::make_unique<CpuBackend>(CpuBackendOptions{.threads = 2, .reference_kernels = true});
#ifdef NANOFLOW_HAS_CUDA
  if (wants_cuda()) {
    sides.tested = make_cuda_backend({});
    return sides;
  }
#endif
  sides.tested = std::make_unique<CpuBackend>(CpuBackendOptions{.threads = 2, .page_size = 32});
  return sides;
}

Random::Random() : seed_(std::random_device{}()) {
  if (const char* given = std::getenv("NANOFLOW_TEST_SEED"))
    seed_ = std::strtoull(given, nullptr, 10);
  engine_.seed(seed_);
}

HostTensor Random::normals(DType dtype, int64_t rows, int64_t cols, int64_t gap, double scale) {
  HostTensor t(dtype, rows, cols, gap);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) t.set(r, c, normal() * scale);
  return t;
}

HostTensor Random::ints(int64_t rows, int64_t cols, int64_t n) {
  HostTensor t(DType::kI32, rows, cols);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) t.set(r, c, static_cast<double>(below(n)));
  return t;
}

HostTensor int_vector(const std::vector<int32_t>& values) {
  HostTensor t(DType::kI32, static_cast<int64_t>(values.size()), 1);
  for (size_t i = 0; i < values.size(); ++i) t.set(static_cast<int64_t>(i), 0, values[i]);
  return t;
}

std::vector<HostTensor> run_case(Backend& backend, const Case& c) {
  return Runner(backend, c).run().tensors;
}

void expect_same(const Sides& sides, const Case& c, const std::string& name, uint64_t seed) {
  const After want = Runner(*sides.reference, c).run();
  After got = Runner(*sides.tested, c).run();
  if (got.is_product && !is_cpu(*sides.tested))
    for (const Output& output : c.outputs)
      forgive_padding(got.tensors[output.tensor], c.tensors[output.tensor], output.written.end);
  const auto fail = [&](const std::string& what, const std::vector<std::string>& failures) {
    for (const std::string& failure : failures)
      ADD_FAILURE() << name << ", " << what << ", NANOFLOW_TEST_SEED=" << seed << ": " << failure;
  };
  const auto never = [](int64_t, int64_t, double) { return 0.0; };
  for (size_t i = 0; i < c.tensors.size(); ++i) {
    const auto output = std::find_if(c.outputs.begin(), c.outputs.end(),
                                     [&](const Output& o) { return o.tensor == i; });
    const bool written = output != c.outputs.end();
    const RowRange rows = written ? output->written : RowRange{};
    const ElementBound bound = written ? output->bound : never;
    const std::string what = fmt::format("tensor {}", i);
    fail(what, compare(got.tensors[i], want.tensors[i], c.tensors[i], rows.begin, rows.end, bound));
    fail(what + " of the reference",
         compare(want.tensors[i], want.tensors[i], c.tensors[i], rows.begin, rows.end, never));
  }
  if (c.kv.lengths.empty()) return;
  const bool appends = c.kv_bound != nullptr;
  const int64_t tokens = appends ? c.kv.k.rows : 0;
  const ElementBound bound = appends ? c.kv_bound : never;
  fail("cached k", compare(got.k, want.k, c.kv.k, 0, tokens, bound));
  fail("cached v", compare(got.v, want.v, c.kv.v, 0, tokens, bound));
}

}  // namespace nanoflow::testing_ops
