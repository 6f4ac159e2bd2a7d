#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "base/error.h"
#include "comm/communicator.h"
#include "tensor/buffer.h"

namespace nanoflow {
namespace {

void run_ranks(int size, const std::function<void(Communicator&)>& body) {
  auto group = make_in_process_group(size);
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r)
    threads.emplace_back([&, r] { body(*group[static_cast<size_t>(r)]); });
  for (std::thread& t : threads) t.join();
}

float element(int rank, int round, int64_t i) {
  return std::sin(static_cast<float>(i * 7 + rank * 131 + round * 17)) *
         (1.0f + 1e4f * (i % 3 == 0));
}

class InProcess : public testing::TestWithParam<int> {};

TEST_P(InProcess, AllReduceSumsInRankOrderAndRoundsOnce) {
  const int size = GetParam();
  run_ranks(size, [&](Communicator& comm) {
    for (int round = 0; round < 20; ++round) {
      const int64_t rows = round % 5, cols = 13, stride = 16;
      std::vector<BFloat16> data(static_cast<size_t>(rows * stride) + 16);
      for (int64_t i = 0; i < rows * stride; ++i)
        data[static_cast<size_t>(i)] = BFloat16(element(comm.rank(), round, i));
      const TensorView x =
          TensorView(data.data(), DType::kBF16, {rows, stride}).slice_cols(0, cols);
      comm.all_reduce(x);
      for (int64_t i = 0; i < rows * stride; ++i) {
        float want = static_cast<float>(BFloat16(element(0, round, i)));
        for (int r = 1; r < size; ++r) want += static_cast<float>(BFloat16(element(r, round, i)));
        if (i % stride >= cols) want = static_cast<float>(BFloat16(element(comm.rank(), round, i)));
        ASSERT_EQ(data[static_cast<size_t>(i)].bits, BFloat16(want).bits) << round << " " << i;
      }
    }
  });
}

TEST_P(InProcess, AllGatherConcatenatesRowsInRankOrder) {
  const int size = GetParam();
  run_ranks(size, [&](Communicator& comm) {
    std::vector<int32_t> x(3 * 5), out(3 * 5 * static_cast<size_t>(size));
    for (size_t i = 0; i < x.size(); ++i) x[i] = comm.rank() * 1000 + static_cast<int>(i);
    comm.all_gather(TensorView(out.data(), DType::kI32, {3, 5 * size}),
                    TensorView(x.data(), DType::kI32, {3, 5}));
    for (int row = 0; row < 3; ++row)
      for (int r = 0; r < size; ++r)
        for (int c = 0; c < 5; ++c)
          ASSERT_EQ(out[static_cast<size_t>((row * size + r) * 5 + c)], r * 1000 + row * 5 + c);
  });
}

TEST_P(InProcess, BarrierHoldsEveryRankUntilTheLast) {
  std::atomic<int> before = 0;
  const int size = GetParam();
  run_ranks(size, [&](Communicator& comm) {
    for (int round = 1; round <= 50; ++round) {
      before.fetch_add(1);
      comm.barrier();
      ASSERT_GE(before.load(), round * size);
      comm.barrier();
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, InProcess, testing::Values(1, 2, 3, 4));

TEST(InProcessAbort, WakesEveryWaitingRankAndFailsLaterCalls) {
  auto group = make_in_process_group(4);
  std::atomic<int> failed = 0;
  std::vector<std::thread> threads;
  for (size_t r = 0; r < 3; ++r)
    threads.emplace_back([&, r] {
      EXPECT_THROW(group[r]->barrier(), EnvironmentError);
      failed.fetch_add(1);
    });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(failed.load(), 0);
  group[3]->abort();
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(failed.load(), 3);
  EXPECT_THROW(group[3]->barrier(), EnvironmentError);
  float x = 1;
  EXPECT_THROW(group[0]->all_reduce(TensorView(&x, DType::kF32, {1, 1})), EnvironmentError);
}

}  // namespace
}  // namespace nanoflow
