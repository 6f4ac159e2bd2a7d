// Compact tables of a vocabulary: strings by id in one block of memory, ids by string, and ranks of
// token pairs. Open addressing with linear probing; nothing is ever removed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nanoflow {

/// Strings by index, back to back in one allocation.
class StringTable {
 public:
  StringTable() : offsets_{0} {}
  /// Total bytes must stay below 4 GiB (NANO_CHECKed).
  void push_back(std::string_view text);
  void reserve(size_t count, size_t bytes);
  [[nodiscard]] std::string_view operator[](size_t i) const {
    return std::string_view(bytes_).substr(offsets_[i], offsets_[i + 1] - offsets_[i]);
  }
  [[nodiscard]] size_t size() const { return offsets_.size() - 1; }

 private:
  std::string bytes_;
  std::vector<uint32_t> offsets_;
};

/// The index of a string in a StringTable. Empty strings are not found.
class TokenIndex {
 public:
  TokenIndex() = default;
  /// Indexes all of `strings`; of equal strings the first counts.
  explicit TokenIndex(const StringTable& strings);
  /// -1 if absent. `strings` must be the table given to the constructor.
  [[nodiscard]] int32_t find(const StringTable& strings, std::string_view text) const;
  /// Length of the longest string; nothing longer can be found.
  [[nodiscard]] size_t max_length() const { return max_length_; }

 private:
  struct Slot {
    uint32_t tag = 0;  // upper half of the hash: most mismatches never touch the strings
    int32_t id = -1;
  };
  std::vector<Slot> slots_;
  size_t mask_ = 0;
  size_t max_length_ = 0;
};

/// What merging two neighbouring tokens gives.
struct Merge {
  int32_t left = -1;
  int32_t right = -1;
  uint32_t rank = 0;  ///< the lowest rank merges first
  int32_t result = -1;
};

/// Merges by pair. 16 bytes a slot.
class MergeTable {
 public:
  MergeTable() = default;
  /// Of equal pairs the last counts, as in Hugging Face's reader.
  explicit MergeTable(const std::vector<Merge>& merges);
  /// nullptr if the pair does not merge.
  [[nodiscard]] const Merge* find(int32_t left, int32_t right) const {
    if (slots_.empty()) return nullptr;
    for (size_t i = hash(left, right);; ++i) {
      const Merge& slot = slots_[i & mask_];
      if (slot.left == left && slot.right == right) return &slot;
      if (slot.left < 0) return nullptr;
    }
  }

 private:
  static size_t hash(int32_t left, int32_t right) {
    const uint64_t key =
        static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    const uint64_t h = key * 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio (Knuth 6.4)
    return static_cast<size_t>(h ^ (h >> 32));
  }

  std::vector<Merge> slots_;
  size_t mask_ = 0;
};

}  // namespace nanoflow
