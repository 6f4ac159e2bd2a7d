#include "text/token_table.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "base/check.h"

namespace nanoflow {
namespace {

uint64_t mix(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

/// Multiply-and-fold over eight bytes at a time. The table's keys are the vocabulary, so a client
/// cannot make it degenerate.
uint64_t hash_bytes(std::string_view text) {
  constexpr uint64_t kA = 0xA0761D6478BD642Fu;  // odd constants with even bit counts
  constexpr uint64_t kB = 0xE7037ED1A0B428DBu;
  uint64_t h = text.size() * kA;
  const char* p = text.data();
  size_t n = text.size();
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t word = 0;
    std::memcpy(&word, p, 8);
    h = mix(h ^ word, kB);
  }
  uint64_t tail = 0;
  if (n > 0) std::memcpy(&tail, p, n);
  return mix(h ^ tail, kA);
}

/// Slots for `count` entries: a power of two, at most three quarters full.
size_t table_size(size_t count) {
  return std::bit_ceil(std::max<size_t>(16, count + count / 3));
}

}  // namespace

void StringTable::push_back(std::string_view text) {
  NANO_CHECK(bytes_.size() + text.size() <= std::numeric_limits<uint32_t>::max(), "{}",
             text.size());
  bytes_ += text;
  offsets_.push_back(static_cast<uint32_t>(bytes_.size()));
}

void StringTable::reserve(size_t count, size_t bytes) {
  offsets_.reserve(count + 1);
  bytes_.reserve(bytes);
}

TokenIndex::TokenIndex(const StringTable& strings)
    : slots_(table_size(strings.size())), mask_(slots_.size() - 1) {
  for (size_t id = 0; id < strings.size(); ++id) {
    const std::string_view text = strings[id];
    if (text.empty() || find(strings, text) >= 0) continue;
    max_length_ = std::max(max_length_, text.size());
    const uint64_t h = hash_bytes(text);
    size_t i = h & mask_;
    while (slots_[i].id >= 0) i = (i + 1) & mask_;
    slots_[i] = {static_cast<uint32_t>(h >> 32), static_cast<int32_t>(id)};
  }
}

int32_t TokenIndex::find(const StringTable& strings, std::string_view text) const {
  if (text.size() > max_length_ || text.empty()) return -1;
  const uint64_t h = hash_bytes(text);
  const auto tag = static_cast<uint32_t>(h >> 32);
  for (size_t i = h & mask_;; i = (i + 1) & mask_) {
    const Slot slot = slots_[i];
    if (slot.id < 0) return -1;
    if (slot.tag == tag && strings[static_cast<size_t>(slot.id)] == text) return slot.id;
  }
}

MergeTable::MergeTable(const std::vector<Merge>& merges)
    : slots_(table_size(merges.size())), mask_(slots_.size() - 1) {
  for (const Merge& merge : merges) {
    NANO_CHECK(merge.left >= 0 && merge.right >= 0 && merge.result >= 0);
    size_t i = hash(merge.left, merge.right) & mask_;
    while (slots_[i].left >= 0 &&
           (slots_[i].left != merge.left || slots_[i].right != merge.right)) {
      i = (i + 1) & mask_;
    }
    slots_[i] = merge;
  }
}

}  // namespace nanoflow
