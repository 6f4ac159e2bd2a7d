// RankQueue: the order in which byte pair encoding merges the pairs of a long piece. Knows neither
// tokens nor which entries are out of date.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nanoflow {

/// A priority queue of (rank, position), lowest rank first and leftmost of equals, in linear time
/// for what merging does: it pops in passes over the piece, a rank at a time, and what a merge
/// brings has a higher rank, or else is popped soon.
///   Ranks above the current one wait in a radix heap (Ahuja, Mehlhorn, Orlin, Tarjan 1990, section
///   1) keyed by the rank alone, so an entry moves at most once per bit of a rank, however long the
///   piece. The positions of one rank are sorted when its turn comes; they mostly are already.
///   Entries at or below the current rank go to a heap, which stays small.
/// Single-threaded. Keeps its memory for the next piece.
class RankQueue {
 public:
  struct Entry {
    uint32_t rank = 0;
    uint32_t position = 0;
  };

  /// Any order of ranks; rank < UINT32_MAX.
  void push(uint32_t rank, uint32_t position) {
    const uint32_t key = rank + 1;  // above 0, the current key before the first pop
    if (key <= key_) {
      push_early({key, position});
      return;
    }
    const auto group = static_cast<size_t>(31 - std::countl_zero(key ^ key_));
    groups_[group].push_back({key, position});
    occupied_ |= uint32_t{1} << group;
  }

  /// Takes the lowest entry; false when there is none, and the next pushes start anew.
  bool pop(Entry& entry) {
    while (early_.empty() && at_ == run_.size())
      if (!next_rank()) return false;
    if (!early_.empty() && is_early_first()) {
      entry = pop_early();
    } else {
      entry = {key_ - 1, run_[at_++]};
    }
    return true;
  }

 private:
  bool next_rank();
  void sort_run();
  void push_early(Entry entry);
  Entry pop_early();
  [[nodiscard]] bool is_early_first() const {
    const Entry& first = early_.front();
    return at_ == run_.size() || first.rank < key_ || first.position < run_[at_];
  }

  uint32_t key_ = 0;           // rank + 1 of the run
  std::vector<uint32_t> run_;  // its positions in order, popped up to at_
  size_t at_ = 0;
  // Entries (with rank + 1) by the highest bit in which they differ from key_.
  std::array<std::vector<Entry>, 32> groups_;
  uint32_t occupied_ = 0;     // bit g: groups_[g] is not empty
  std::vector<Entry> early_;  // heap of entries (with rank + 1) that came at or below key_
  std::vector<uint32_t> sorted_;
};

}  // namespace nanoflow
