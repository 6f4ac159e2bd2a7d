#include "backend/cpu/backend.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "base/error.h"

namespace nanoflow {
namespace {

/// A communicator whose collectives a test can delay or fail: the only op that a test controls.
class GateCommunicator final : public Communicator {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 2; }
  void all_reduce(const TensorView& x) override {
    while (!open.load()) std::this_thread::yield();
    if (fail.load()) throw EnvironmentError("link is down");
    for (int64_t t = 0; t < x.rows(); ++t)
      for (int64_t c = 0; c < x.cols(); ++c) x.row<float>(t)[c] += 1;
  }
  void all_gather(const TensorView&, const TensorView&) override {}
  void barrier() override {}
  void abort() override { aborted.store(true); }
  std::atomic<bool> open = false, fail = false, aborted = false;
};

TensorView scalar(float& x) {
  return TensorView(&x, DType::kF32, {1, 1});
}

class CpuBackendTest : public testing::Test {
 protected:
  GateCommunicator comm;
  CpuBackend backend{{.threads = 1, .lanes = 3, .comm = &comm, .reference_kernels = true}};
  /// Adds 1 to x on `lane` once the gate is open.
  void bump(float& x, LaneId lane) {
    backend.launch(AllReduceArgs{scalar(x)}, LaunchContext{.lane = lane});
  }
  void copy(float& to, float& from, LaneId lane) { backend.copy(scalar(to), scalar(from), lane); }
};

TEST_F(CpuBackendTest, StampsReadTheClockInALanesOrderAndAtEveryReplay) {
  float x = 0;
  const StampId begin = backend.create_stamp(), end = backend.create_stamp();
  backend.begin_capture();
  backend.stamp(0, begin);
  bump(x, 0);
  backend.stamp(0, end);
  const GraphId graph = backend.end_capture();
  comm.open = false;
  backend.replay(graph);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  comm.open = true;
  backend.synchronize();
  const int64_t first_ns = backend.elapsed_ns(begin, end);
  EXPECT_GE(first_ns, 10'000'000) << "the gate was shut for 20 ms";
  EXPECT_EQ(backend.elapsed_ns(end, begin), -first_ns);
  const StampId between = backend.create_stamp();
  backend.stamp(0, between);
  backend.replay(graph);
  backend.synchronize();
  EXPECT_GE(backend.elapsed_ns(between, begin), 0);
  EXPECT_GE(backend.elapsed_ns(begin, end), 0);
  EXPECT_EQ(x, 2);
}

TEST_F(CpuBackendTest, ALaneRunsInOrder) {
  float x = 0, seen[3] = {};
  comm.open = true;
  for (float& s : seen) {
    bump(x, 0);
    copy(s, x, 0);
  }
  backend.synchronize();
  EXPECT_EQ(seen[0], 1);
  EXPECT_EQ(seen[1], 2);
  EXPECT_EQ(seen[2], 3);
}

TEST_F(CpuBackendTest, AWaitHoldsTheOtherLaneAndLanesRunTogether) {
  float x = 0, y = -1, z = 5, w = -1;
  const EventId done = backend.create_event(), free = backend.create_event();
  bump(x, 0);
  backend.record(0, done);
  copy(w, z, 2);  // lane 2 is not held by lane 0's closed gate
  backend.record(2, free);
  backend.synchronize_event(free);
  EXPECT_EQ(w, 5);
  backend.wait(1, done);
  copy(y, x, 1);
  comm.open = true;
  backend.synchronize();
  EXPECT_EQ(y, 1);
}

TEST_F(CpuBackendTest, AWaitMeansTheRecordThatWasLatestWhenItWasCalled) {
  float x = 0, y = 0, z = -1;
  const EventId event = backend.create_event(), reached = backend.create_event();
  copy(y, x, 0);
  backend.record(0, event);
  backend.wait(1, event);
  copy(z, y, 1);
  bump(x, 0);  // gate closed
  backend.record(0, event);
  backend.record(1, reached);
  backend.synchronize_event(reached);  // would hang if the wait had moved with the marker
  EXPECT_EQ(z, 0);
  comm.open = true;
  backend.synchronize_event(event);
  EXPECT_EQ(x, 1);
}

TEST_F(CpuBackendTest, AnOldRecordOnASlowLaneIsNotHiddenByANewerOneOnAFastLane) {
  float x = 0, y = -1;
  const EventId event = backend.create_event();
  bump(x, 0);
  backend.record(0, event);
  backend.wait(1, event);
  copy(y, x, 1);
  backend.record(2, event);  // idle lane: reached at once
  backend.synchronize_event(event);
  EXPECT_EQ(y, -1);
  comm.open = true;
  backend.synchronize();
  EXPECT_EQ(y, 1);
}

TEST_F(CpuBackendTest, AnEventThatWasNeverRecordedHoldsNobody) {
  const EventId event = backend.create_event();
  backend.wait(0, event);
  backend.synchronize_event(event);
  backend.synchronize();
}

TEST_F(CpuBackendTest, AFailureSkipsLaterWorkFiresEventsAndAbortsTheGroup) {
  float x = 0, y = -1;
  const EventId event = backend.create_event();
  comm.fail = true;
  comm.open = true;
  bump(x, 0);
  backend.record(0, event);
  backend.wait(1, event);
  copy(y, x, 1);
  EXPECT_THROW(backend.synchronize_event(event), EnvironmentError);
  EXPECT_THROW(backend.synchronize(), EnvironmentError);
  EXPECT_EQ(y, -1);
  EXPECT_TRUE(comm.aborted);
  copy(y, x, 2);
  EXPECT_THROW(backend.synchronize(), EnvironmentError);
  EXPECT_EQ(y, -1);
}

TEST_F(CpuBackendTest, CaptureKeepsCallsAndReplayRunsThemAgain) {
  float x = 0, y = -1;
  comm.open = true;
  const EventId event = backend.create_event();
  backend.begin_capture();
  bump(x, 0);
  backend.record(0, event);
  backend.wait(1, event);
  copy(y, x, 1);
  backend.record(1, event);
  backend.wait(0, event);
  const GraphId graph = backend.end_capture();
  backend.synchronize();
  EXPECT_EQ(x, 0);
  for (int i = 1; i <= 100; ++i) {
    backend.replay(graph);
    if (i % 10 == 0) {
      backend.synchronize_event(event);
      EXPECT_EQ(y, static_cast<float>(i));
    }
  }
  backend.synchronize();
}

TEST_F(CpuBackendTest, RowsBehindTheHeaderAreNotTouched) {
  float x[4][2] = {{1, 2}, {3, 4}, {5, 6}, {7, 8}}, out[4][2] = {}, w[2] = {1, 1};
  StepHeader header{.num_rows = 12};
  backend.launch(RmsNormArgs{.out = TensorView(out, DType::kF32, {4, 2}),
                             .x = TensorView(x, DType::kF32, {4, 2}),
                             .weight = TensorView(w, DType::kF32, {2})},
                 LaunchContext{.rows = {10, 14}, .header = &header});
  backend.synchronize();
  EXPECT_NE(out[1][1], 0);
  EXPECT_EQ(out[2][0], 0);
  header.num_rows = 3;  // the whole range is padding
  std::fill_n(&out[0][0], 8, 0.0f);
  backend.launch(RmsNormArgs{.out = TensorView(out, DType::kF32, {4, 2}),
                             .x = TensorView(x, DType::kF32, {4, 2}),
                             .weight = TensorView(w, DType::kF32, {2})},
                 LaunchContext{.rows = {10, 14}, .header = &header});
  backend.synchronize();
  EXPECT_EQ(out[0][0], 0);
}

TEST_F(CpuBackendTest, WeightsAndPagesAreLaidOutAsTheContractSays) {
  float w[3][4];
  for (int i = 0; i < 12; ++i) w[i / 4][i % 4] = static_cast<float>(i);
  const OwnedWeight owned = backend.prepare_weight(
      TensorView(w, DType::kF32, {3, 4}).slice_cols(1, 4), WeightUse::kEmbedding, 1);
  EXPECT_EQ(owned.packed.n, 3);
  EXPECT_EQ(owned.packed.k, 3);
  EXPECT_EQ(owned.packed.data.row<float>(2)[0], 9);
  const KvLayout layout = backend.kv_layout({.num_kv_heads = 3, .head_dim = 8});
  EXPECT_GE(layout.page_stride, layout.page_size * 3 * 8 * 2);
  EXPECT_EQ(layout.bytes_per_page, layout.page_stride * 2);
}

TEST(CpuBackendMemory, AWeightInPiecesEqualsAWholeOne) {
  // Rows so wide that an expert takes two pieces, and its last panel is not full.
  constexpr int64_t kRows = 2 * 35, kCols = 260'001;
  const Buffer host = allocate_host(kRows * kCols * 2);
  const TensorView whole = host.view(DType::kBF16, {kRows, kCols});
  auto* values = static_cast<uint16_t*>(host.data());
  for (int64_t i = 0; i < kRows * kCols; ++i)
    values[i] = static_cast<uint16_t>(static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15u >> 48);
  for (const bool reference : {false, true}) {
    CpuBackend backend({.threads = 3, .lanes = 1, .reference_kernels = reference});
    const OwnedWeight want = backend.prepare_weight(whole, WeightUse::kExperts, 2);
    int64_t next = 0, largest = 0;
    const OwnedWeight got = backend.load_weight(
        {kRows, kCols, DType::kBF16, WeightUse::kExperts, 2},
        [&](int64_t row, const TensorView& out) {
          EXPECT_EQ(row, next);
          next += out.rows();
          largest = std::max(largest, out.size_bytes());
          for (int64_t r = 0; r < out.rows(); ++r)
            std::memcpy(out.slice_rows(r, r + 1).data(), values + (row + r) * kCols, kCols * 2);
        });
    EXPECT_EQ(next, kRows);
    EXPECT_TRUE(reference || largest <= int64_t{16} << 20) << largest;
    EXPECT_EQ(got.packed.n, want.packed.n);
    EXPECT_EQ(got.packed.k, want.packed.k);
    EXPECT_EQ(got.packed.experts, 2);
    EXPECT_EQ(got.packed.layout, want.packed.layout);
    ASSERT_EQ(got.storage.size(), want.storage.size());
    EXPECT_EQ(std::memcmp(got.storage.data(), want.storage.data(),
                          static_cast<size_t>(want.storage.size())),
              0);
  }
}

TEST(CpuBackendRanks, AFailedRankDoesNotLeaveTheOthersHanging) {
  auto group = make_in_process_group(2);
  CpuBackend waiting({.threads = 1, .lanes = 1, .comm = group[0].get()});
  float x = 1;
  waiting.launch(AllReduceArgs{scalar(x)}, LaunchContext{});
  group[1]->abort();
  EXPECT_THROW(waiting.synchronize(), EnvironmentError);
}

TEST(CpuBackendDestruction, UnwaitedWorkAcrossLanesIsDrained) {
  for (int round = 0; round < 50; ++round) {
    float x[64] = {}, y[64] = {};
    CpuBackend backend({.threads = 1, .lanes = 2});
    const EventId event = backend.create_event();
    for (size_t i = 0; i < 64; ++i) {
      backend.copy(scalar(x[i]), scalar(y[i]), static_cast<int>(i % 2));
      backend.record(static_cast<int>(i % 2), event);
      backend.wait(static_cast<int>(1 - i % 2), event);
    }
  }
}

}  // namespace
}  // namespace nanoflow
