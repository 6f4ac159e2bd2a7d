#include "backend/cuda/backend.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "comm/communicator.h"

namespace nanoflow {
namespace {

class CudaBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    const cuda::DeviceSurvey survey = cuda::survey_devices();
    ASSERT_EQ(survey.problem, "");
    if (survey.devices.empty()) GTEST_SKIP() << "no NVIDIA GPU is visible";
    backend = std::make_unique<CudaBackend>(CudaBackendOptions{.lanes = 3});
  }

  Buffer floats(const std::vector<float>& values) {
    return bytes(values.data(), values.size() * 4);
  }
  Buffer bytes(const void* data, size_t size) {
    const auto count = static_cast<int64_t>(size);
    Buffer host = backend->allocate_pinned(count), device = backend->allocate(count);
    std::memcpy(host.data(), data, size);
    backend->copy(device.view(DType::kU8, {count}), host.view(DType::kU8, {count}), 0);
    backend->synchronize();
    return device;
  }
  std::vector<float> read(const Buffer& device) {
    Buffer host = backend->allocate_pinned(device.size());
    backend->copy(host.view(DType::kU8, {device.size()}), device.view(DType::kU8, {device.size()}),
                  0);
    backend->synchronize();
    const auto* data = static_cast<const float*>(host.data());
    return {data, data + device.size() / 4};
  }
  static TensorView matrix(const Buffer& b, int64_t rows) {
    return b.view(DType::kF32, {rows, b.size() / 4 / rows});
  }
  /// to = from, as an op (so that it is captured), of `rows` live rows when there is a header.
  void copy_op(const Buffer& to, const Buffer& from, LaneId lane, int64_t rows = 1,
               const StepHeader* header = nullptr) {
    backend->launch(AllGatherArgs{.out = matrix(to, rows), .x = matrix(from, rows)},
                    LaunchContext{.lane = lane, .rows = {0, rows}, .header = header});
  }

  std::unique_ptr<CudaBackend> backend;
};

TEST_F(CudaBackendTest, AWaitOrdersLanes) {
  constexpr size_t kLarge = 16 << 20;  // long enough that the second lane would win a race
  for (int round = 0; round < 20; ++round) {
    const Buffer a = floats(std::vector<float>(kLarge, static_cast<float>(round + 1)));
    const Buffer b = floats(std::vector<float>(kLarge, -1)), c = floats({-1, -1, -1, -1});
    const EventId done = backend->create_event(), back = backend->create_event();
    copy_op(b, a, 0);
    backend->record(0, done);
    backend->wait(1, done);
    const TensorView tail =
        TensorView(static_cast<float*>(b.data()) + kLarge - 4, DType::kF32, {1, 4}, b.device());
    backend->copy(c.view(DType::kF32, {1, 4}), tail, 1);
    backend->record(1, back);
    backend->wait(0, back);
    EXPECT_EQ(read(c), std::vector<float>(4, static_cast<float>(round + 1)));
  }
}

TEST_F(CudaBackendTest, ReplaysSeeNewCountsAndRunTheirLanesInOrder) {
  const Buffer a = floats({1, 2, 3, 4}), b = floats({0, 0, 0, 0}), c = floats({0, 0, 0, 0});
  StepHeader header{.num_rows = 3};
  const Buffer device_header = bytes(&header, sizeof(header));
  const auto* counts = static_cast<const StepHeader*>(device_header.data());
  const EventId forked = backend->create_event(), joined = backend->create_event();
  backend->begin_capture();
  copy_op(b, a, 0, 4, counts);
  backend->record(0, forked);
  backend->wait(2, forked);
  copy_op(c, b, 2, 4, counts);
  backend->record(2, joined);
  backend->wait(0, joined);
  const GraphId graph = backend->end_capture();
  EXPECT_EQ(read(c), (std::vector<float>{0, 0, 0, 0}));  // nothing ran yet
  backend->replay(graph);
  backend->synchronize_event(joined);
  EXPECT_EQ(read(c), (std::vector<float>{1, 2, 3, 0}));
  for (const int32_t live : {1, 4, 0, 2}) {
    header.num_rows = live;
    const Buffer news = bytes(&header, sizeof(header));
    const Buffer zeros = floats({0, 0, 0, 0});
    const auto raw = [](const Buffer& x) { return x.view(DType::kU8, {x.size()}); };
    backend->copy(raw(device_header), raw(news), 0);
    backend->copy(raw(b), raw(zeros), 0);
    backend->copy(raw(c), raw(zeros), 0);
    backend->replay(graph);
    std::vector<float> want = {1, 2, 3, 4};
    for (size_t i = static_cast<size_t>(live); i < 4; ++i) want[i] = 0;
    EXPECT_EQ(read(c), want) << live;
  }
}

TEST_F(CudaBackendTest, AReplayWaitsForEarlierWorkOfItsLanesAndHoldsLaterWork) {
  constexpr size_t kLarge = 16 << 20;
  const Buffer a = floats(std::vector<float>(kLarge, 5)), b = floats(std::vector<float>(kLarge, 0));
  const Buffer c = floats(std::vector<float>(kLarge, 0)), d = floats(std::vector<float>(kLarge, 0));
  backend->begin_capture();
  copy_op(c, b, 1);  // a lane that the capture never forked by hand
  const GraphId graph = backend->end_capture();
  copy_op(b, a, 1);
  backend->replay(graph);
  copy_op(d, c, 1);
  backend->synchronize();
  EXPECT_EQ(read(d).back(), 5);
}

TEST_F(CudaBackendTest, AnEventOutsideTheCaptureHoldsItsReplays) {
  constexpr size_t kLarge = 16 << 20;
  const Buffer a = floats(std::vector<float>(kLarge, 7)), b = floats(std::vector<float>(kLarge, 0));
  const Buffer c = floats(std::vector<float>(kLarge, 0));
  const EventId ready = backend->create_event();
  backend->begin_capture();
  backend->wait(0, ready);
  copy_op(c, b, 0);
  const GraphId graph = backend->end_capture();
  copy_op(b, a, 1);
  backend->record(1, ready);
  backend->replay(graph);
  EXPECT_EQ(read(c).back(), 7);
}

TEST_F(CudaBackendTest, CapturedStampsMeasureEveryOpOfEveryReplayOnEveryLane) {
  constexpr size_t kLarge = 64 << 20;  // 256 MiB: some 100 us to copy on any GPU
  const Buffer a = floats(std::vector<float>(kLarge, 5)), b = floats(std::vector<float>(kLarge, 0));
  const Buffer c = floats(std::vector<float>(kLarge, 0)), small = floats({1}), to = floats({0});
  std::vector<StampId> stamps(8);
  for (StampId& stamp : stamps) stamp = backend->create_stamp();
  const EventId forked = backend->create_event(), joined = backend->create_event();
  const auto issue = [&](bool is_timed) {
    const auto stamp = [&](LaneId lane, size_t i) {
      if (is_timed) backend->stamp(lane, stamps[i]);
    };
    backend->begin_capture();
    stamp(0, 1);
    copy_op(b, a, 0);
    stamp(0, 2);
    backend->record(0, forked);
    backend->wait(2, forked);
    stamp(2, 3);
    copy_op(c, b, 2);
    stamp(2, 4);
    backend->record(2, joined);
    backend->wait(0, joined);
    stamp(0, 5);
    copy_op(to, small, 0);
    stamp(0, 6);
    return backend->end_capture();
  };
  const GraphId plain = issue(false), timed = issue(true);
  int64_t before_ns = 0;
  for (int round = 0; round < 3; ++round) {
    backend->stamp(0, stamps[0]);
    backend->replay(timed);
    backend->stamp(0, stamps[7]);
    backend->synchronize();
    int64_t sum_ns = 0;
    for (size_t i = 0; i + 1 < stamps.size(); ++i) {
      const int64_t ns = backend->elapsed_ns(stamps[i], stamps[i + 1]);
      EXPECT_GE(ns, 0) << i;
      sum_ns += ns;
    }
    const int64_t whole_ns = backend->elapsed_ns(stamps[0], stamps[7]);
    EXPECT_NEAR(static_cast<double>(sum_ns), static_cast<double>(whole_ns), 8000)
        << "in steps of us";
    for (const size_t large : {size_t{1}, size_t{3}}) {
      EXPECT_GT(backend->elapsed_ns(stamps[large], stamps[large + 1]), 50'000);
      EXPECT_GT(backend->elapsed_ns(stamps[large], stamps[large + 1]),
                5 * backend->elapsed_ns(stamps[5], stamps[6]));
    }
    before_ns = backend->elapsed_ns(stamps[1], stamps[6]);
    backend->replay(plain);
    backend->synchronize();
    EXPECT_EQ(backend->elapsed_ns(stamps[1], stamps[6]), before_ns) << "plain replays read nothing";
  }
  EXPECT_EQ(read(c).back(), 5);
  EXPECT_EQ(read(to).back(), 1);
}

TEST_F(CudaBackendTest, ReadingMemoryIsAsFastAsTheGpuPromises) {
  const double rate = measure_cuda_read_rate(backend->limits().ordinal, 0.05);
  EXPECT_GT(rate, 1e11);
  EXPECT_LT(rate, 1e13);
}

TEST_F(CudaBackendTest, WeightsOfAnySizeAndStrideArriveWhole) {
  for (const int64_t rows : {1, 3, 1500})
    for (const int64_t cols : {1, 7, 4099}) {
      std::vector<float> host(static_cast<size_t>(rows * (cols + 3)));
      for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<float>(i % 100003);
      const TensorView all(host.data(), DType::kF32, {rows, cols + 3});
      const OwnedWeight owned =
          backend->prepare_weight(all.slice_cols(2, cols + 2), WeightUse::kEmbedding, 1);
      std::fill(host.begin(), host.end(), -1.0f);  // it was read before the call returned
      const std::vector<float> got = read(owned.storage);
      ASSERT_EQ(got.size(), static_cast<size_t>(rows * cols));
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; ++c)
          ASSERT_EQ(got[static_cast<size_t>(r * cols + c)],
                    static_cast<float>((r * (cols + 3) + c + 2) % 100003))
              << r << " " << c << " of [" << rows << ", " << cols << "]";
    }
}

TEST_F(CudaBackendTest, AWeightReadInPiecesArrivesWholeAndAFailedReadLeavesTheBackendUsable) {
  const WeightShape shape{.rows = 9001, .cols = 4099, .dtype = DType::kF32};  // nine pieces
  int64_t next = 0;
  const auto value = [](int64_t row, int64_t col) {
    return static_cast<float>((row * 4099 + col) % 16777213);
  };
  const auto read_rows = [&](int64_t row_begin, const TensorView& out) {
    EXPECT_EQ(row_begin, next);
    next += out.rows();
    for (int64_t r = 0; r < out.rows(); ++r)
      for (int64_t c = 0; c < out.cols(); ++c) out.row<float>(r)[c] = value(row_begin + r, c);
  };
  EXPECT_THROW((void)backend->load_weight(shape,
                                          [](int64_t row, const TensorView&) {
                                            if (row > 0)
                                              throw IoError("weights", "the disk is gone");
                                          }),
               IoError);
  const OwnedWeight owned = backend->load_weight(shape, read_rows);
  EXPECT_EQ(next, shape.rows);
  const std::vector<float> got = read(owned.storage);
  for (int64_t r = 0; r < shape.rows; ++r)
    for (int64_t c = 0; c < shape.cols; ++c)
      ASSERT_EQ(got[static_cast<size_t>(r * shape.cols + c)], value(r, c)) << r << " " << c;
}

TEST_F(CudaBackendTest, KvPagesAreContiguousTilesPerHead) {
  const KvLayout layout = backend->kv_layout({.num_kv_heads = 3, .head_dim = 80});
  EXPECT_EQ(layout.page_size, 64);
  EXPECT_EQ(layout.slot_stride, 80);
  EXPECT_EQ(layout.head_stride, 64 * 80);
  EXPECT_EQ(layout.bytes_per_page, 2 * 3 * 64 * 80 * 2);
}

TEST_F(CudaBackendTest, MemoryThatDoesNotFitIsAnExceptionAndLeavesTheBackendUsable) {
  EXPECT_THROW((void)backend->allocate(int64_t{1} << 50), OutOfMemory);
  const Buffer a = floats({3}), b = floats({0});
  copy_op(b, a, 0);
  EXPECT_EQ(read(b), std::vector<float>{3});
}

TEST_F(CudaBackendTest, WhatItCannotDoIsRefusedByName) {
  auto group = make_in_process_group(2);
  EXPECT_THROW(CudaBackend({.comm = group[0].get()}), ConfigError);
  EXPECT_THROW(CudaBackend({.ordinal = 1000}), CudaError);
  const Buffer a = floats({3}), b = floats({0});
  EXPECT_THROW(backend->launch(AllGatherArgs{.out = matrix(b, 1), .x = matrix(a, 1)},
                               LaunchContext{.sm = {8, SmBudget::Kind::kHard}, .rows = {0, 1}}),
               ConfigError);
}

}  // namespace
}  // namespace nanoflow
