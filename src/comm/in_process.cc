// The in-process group: ranks are threads of one process that meet at a barrier and read each
// other's views directly.
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "comm/communicator.h"

namespace nanoflow {
namespace {

/// What the ranks of one group share. `views` is written by each rank before a barrier and read by
/// the others behind it.
class Group {
 public:
  explicit Group(int size) : views_(static_cast<size_t>(size)), size_(size) {}

  [[nodiscard]] int size() const { return size_; }

  /// Blocks until all ranks are here. Throws EnvironmentError once abort() was called.
  void arrive() {
    std::unique_lock lock(mutex_);
    throw_if_aborted();
    const uint64_t generation = generation_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++generation_;
      lock.unlock();
      changed_.notify_all();
      return;
    }
    changed_.wait(lock, [&] { return generation_ != generation || aborted_; });
    if (generation_ == generation) throw_if_aborted();
  }

  void abort() {
    {
      const std::lock_guard lock(mutex_);
      aborted_ = true;
    }
    changed_.notify_all();
  }

  /// Publishes this rank's view and waits for all; then every rank may read all views, until it
  /// arrives again.
  const std::vector<TensorView>& exchange(int rank, const TensorView& view) {
    views_[static_cast<size_t>(rank)] = view;
    arrive();
    return views_;
  }

 private:
  void throw_if_aborted() const {
    if (aborted_) throw EnvironmentError("tensor parallel group was aborted: another rank failed");
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<TensorView> views_;
  const int size_;
  int arrived_ = 0;
  uint64_t generation_ = 0;
  bool aborted_ = false;
};

float load(const float& x) {
  return x;
}
float load(const BFloat16& x) {
  return static_cast<float>(x);
}
float load(const Float16& x) {
  return static_cast<float>(x);
}

/// sum[c] = x_0[row, c] + x_1[row, c] + ... in rank order.
template <typename T>
void sum_row(const std::vector<TensorView>& views, int64_t row, std::vector<float>& sum) {
  const T* first = views[0].row<T>(row);
  for (size_t c = 0; c < sum.size(); ++c) sum[c] = load(first[c]);
  for (size_t r = 1; r < views.size(); ++r) {
    const T* x = views[r].row<T>(row);
    for (size_t c = 0; c < sum.size(); ++c) sum[c] += load(x[c]);
  }
}

class InProcessCommunicator final : public Communicator {
 public:
  InProcessCommunicator(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), rank_(rank) {}

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return group_->size(); }
  void barrier() override { group_->arrive(); }
  void abort() override { group_->abort(); }

  void all_reduce(const TensorView& x) override {
    const std::vector<TensorView>& views = group_->exchange(rank_, x);
    for (const TensorView& other : views)
      NANO_CHECK(other.rows() == x.rows() && other.cols() == x.cols() && other.dtype() == x.dtype(),
                 "all_reduce of {} meets {}", x.to_string(), other.to_string());
    switch (x.dtype()) {
      case DType::kF32: reduce<float>(views); break;
      case DType::kBF16: reduce<BFloat16>(views); break;
      case DType::kF16: reduce<Float16>(views); break;
      default: NANO_CHECK(false, "all_reduce of {}", x.to_string());
    }
  }

  void all_gather(const TensorView& out, const TensorView& x) override {
    const std::vector<TensorView>& views = group_->exchange(rank_, x);
    NANO_CHECK(
        out.rows() == x.rows() && out.cols() == x.cols() * size() && out.dtype() == x.dtype(),
        "all_gather of {} into {}", x.to_string(), out.to_string());
    const int64_t element = dtype_size(x.dtype());
    for (size_t r = 0; r < views.size(); ++r) {
      const TensorView& from = views[r];
      NANO_CHECK(from.rows() == x.rows() && from.cols() == x.cols() && from.dtype() == x.dtype(),
                 "all_gather of {} meets {}", x.to_string(), from.to_string());
      for (int64_t row = 0; row < x.rows(); ++row) {
        const int64_t offset = row * out.row_stride() + static_cast<int64_t>(r) * x.cols();
        std::memcpy(static_cast<std::byte*>(out.data()) + offset * element,
                    static_cast<const std::byte*>(from.data()) + row * from.row_stride() * element,
                    static_cast<size_t>(x.cols() * element));
      }
    }
    group_->arrive();
  }

 private:
  /// Rank r sums rows r, r + size, ... of all ranks and writes the sum to every rank, so each
  /// element is summed once and the others copy its bits.
  template <typename T>
  void reduce(const std::vector<TensorView>& views) {
    std::vector<float> sum(static_cast<size_t>(views[0].cols()));
    for (int64_t row = rank_; row < views[0].rows(); row += size()) {
      sum_row<T>(views, row, sum);
      for (const TensorView& view : views) {
        T* out = view.row<T>(row);
        for (size_t c = 0; c < sum.size(); ++c) out[c] = T(sum[c]);
      }
    }
    group_->arrive();
  }

  const std::shared_ptr<Group> group_;  // owned by all communicators of the group together
  const int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_in_process_group(int size) {
  NANO_CHECK(size >= 1, "group of {}", size);
  const auto group = std::make_shared<Group>(size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  ranks.reserve(static_cast<size_t>(size));
  for (int rank = 0; rank < size; ++rank)
    ranks.push_back(std::make_unique<InProcessCommunicator>(group, rank));
  return ranks;
}

}  // namespace nanoflow
