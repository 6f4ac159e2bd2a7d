#include "server/worker_pool.h"

#include <atomic>
#include <future>
#include <memory>

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

TEST(WorkerPool, RunsEveryTask) {
  std::atomic<int> sum{0};
  WorkerPool pool(3, 1000);
  std::promise<void> done;
  std::atomic<int> left{500};
  for (int i = 1; i <= 500; ++i)
    ASSERT_TRUE(pool.submit([&, i] {
      sum += i;
      if (--left == 0) done.set_value();
    }));
  done.get_future().wait();
  EXPECT_EQ(sum, 500 * 501 / 2);
}

TEST(WorkerPool, RefusesWhatItCannotKeepAndDropsTheRestAtTheEnd) {
  WorkerPool pool(1, 2);
  std::promise<void> running;
  std::promise<void> go;
  ASSERT_TRUE(pool.submit([&] {
    running.set_value();
    go.get_future().wait();
  }));
  running.get_future().wait();
  const auto token = std::make_shared<int>(0);
  std::atomic<int> ran{0};
  ASSERT_TRUE(pool.submit([token, &ran] { ++ran; }));
  ASSERT_TRUE(pool.submit([token, &ran] { ++ran; }));
  EXPECT_FALSE(pool.submit([&ran] { ++ran; }));
  go.set_value();
  pool.stop();
  EXPECT_EQ(token.use_count(), 1) << "a task outlived the pool";
  EXPECT_LE(ran, 2);
  EXPECT_FALSE(pool.submit([&ran] { ++ran; }));
}

}  // namespace
}  // namespace nanoflow
