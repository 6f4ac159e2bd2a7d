#include "text/rank_queue.h"

#include <algorithm>
#include <bit>

namespace nanoflow {
namespace {

// Below, the standard library's sort is faster than clearing counters.
constexpr size_t kRadixSortSize = 1024;
constexpr uint32_t kDigitBits = 11;

/// Of a std heap, whose first entry is the lowest then.
bool is_later(const RankQueue::Entry& a, const RankQueue::Entry& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

/// Makes the lowest rank of those that wait the current one.
bool RankQueue::next_rank() {
  run_.clear();
  at_ = 0;
  if (occupied_ == 0) {
    key_ = 0;
    return false;
  }
  const auto lowest = static_cast<size_t>(std::countr_zero(occupied_));
  std::vector<Entry>& group = groups_[lowest];
  key_ = UINT32_MAX;
  for (const Entry& entry : group) key_ = std::min(key_, entry.rank);
  occupied_ &= occupied_ - 1;
  for (const Entry& entry : group) {
    if (entry.rank == key_) {
      run_.push_back(entry.position);
    } else {  // shares the group's bit with the new key, so it moves to a lower group
      push(entry.rank - 1, entry.position);
    }
  }
  group.clear();
  sort_run();
  return true;
}

void RankQueue::sort_run() {
  if (std::is_sorted(run_.begin(), run_.end())) return;
  if (run_.size() < kRadixSortSize) {
    std::sort(run_.begin(), run_.end());
    return;
  }
  const uint32_t highest = *std::max_element(run_.begin(), run_.end());
  sorted_.resize(run_.size());
  for (uint32_t shift = 0; shift < 32 && highest >> shift > 0; shift += kDigitBits) {
    std::array<uint32_t, size_t{1} << kDigitBits> start{};
    const auto digit = [shift](uint32_t position) {
      return position >> shift & ((uint32_t{1} << kDigitBits) - 1);
    };
    for (const uint32_t position : run_) ++start[digit(position)];
    uint32_t sum = 0;
    for (uint32_t& count : start) {
      const uint32_t here = count;
      count = sum;
      sum += here;
    }
    for (const uint32_t position : run_) sorted_[start[digit(position)]++] = position;
    run_.swap(sorted_);
  }
}

void RankQueue::push_early(Entry entry) {
  early_.push_back(entry);
  std::push_heap(early_.begin(), early_.end(), is_later);
}

RankQueue::Entry RankQueue::pop_early() {
  std::pop_heap(early_.begin(), early_.end(), is_later);
  const Entry entry = early_.back();
  early_.pop_back();
  return {entry.rank - 1, entry.position};
}

}  // namespace nanoflow
