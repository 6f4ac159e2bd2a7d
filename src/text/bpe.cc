#include "text/bpe.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "text/unicode.h"

namespace nanoflow {
namespace {

constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
constexpr uint32_t kEnd = std::numeric_limits<uint32_t>::max();

// Up to here scanning for the best pair beats the heap (measured on words of ordinary text); the
// quadratic cost is bounded by it.
constexpr size_t kShortPiece = 48;

// A min-heap with four children a node in a plain array: half as deep as the standard library's,
// and the children share a cache line. On a piece of a million bytes that is most of the time.
constexpr size_t kArity = 4;

void heap_push(std::vector<uint64_t>& heap, uint64_t value) {
  heap.push_back(value);
  uint64_t* const h = heap.data();
  size_t at = heap.size() - 1;
  while (at > 0) {
    const size_t parent = (at - 1) / kArity;
    if (h[parent] <= value) break;
    h[at] = h[parent];
    at = parent;
  }
  h[at] = value;
}

/// Moves `value` down from the hole at `at` to where it belongs.
void heap_sink(std::vector<uint64_t>& heap, size_t at, uint64_t value) {
  uint64_t* const h = heap.data();
  const size_t size = heap.size();
  for (size_t first = kArity * at + 1; first < size; first = kArity * at + 1) {
    const size_t end = first + kArity < size ? first + kArity : size;
    size_t least = first;
    for (size_t i = first + 1; i < end; ++i) {
      if (h[i] < h[least]) least = i;
    }
    if (h[least] >= value) break;
    h[at] = h[least];
    at = least;
  }
  h[at] = value;
}

void heap_make(std::vector<uint64_t>& heap) {
  for (size_t i = heap.size(); i-- > 0;) heap_sink(heap, i, heap[i]);
}

uint64_t heap_pop(std::vector<uint64_t>& heap) {
  const uint64_t top = heap.front();
  const uint64_t last = heap.back();
  heap.pop_back();
  if (!heap.empty()) heap_sink(heap, 0, last);
  return top;
}

}  // namespace

Bpe::Bpe(BpeModel model)
    : units_(model.units),
      tokens_(std::move(model.tokens)),
      index_(tokens_),
      merges_(model.merges),
      byte_tokens_(model.byte_tokens),
      unk_id_(model.unk_id),
      fuse_unk_(model.fuse_unk) {
  if (units_ == BpeUnits::kBytes) {
    for (size_t b = 0; b < 256; ++b) {
      const char byte = static_cast<char>(b);
      byte_tokens_[b] = index_.find(tokens_, {&byte, 1});
    }
    const bool complete =
        std::none_of(byte_tokens_.begin(), byte_tokens_.end(), [](int32_t id) { return id < 0; });
    for (size_t pair = 0; complete && pair < 65536; ++pair) {
      byte_pair_ranks_.push_back(rank_of(byte_tokens_[pair >> 8], byte_tokens_[pair & 0xFF]));
    }
  } else {
    has_fallback_ =
        std::none_of(byte_tokens_.begin(), byte_tokens_.end(), [](int32_t id) { return id < 0; });
  }
  // Filled only at the end: while it is empty, encode() takes no short cut.
  std::vector<bool> whole(tokens_.size(), model.ignore_merges);
  if (!model.ignore_merges) {
    Scratch scratch;
    std::vector<int32_t> out;
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (tokens_[id].empty()) continue;
      out.clear();
      encode(tokens_[id], scratch, out);
      whole[id] = out.size() == 1 && out[0] == static_cast<int32_t>(id);
    }
  }
  whole_ = std::move(whole);
}

uint32_t Bpe::rank_of(int32_t left, int32_t right) const {
  const Merge* merge = merges_.find(left, right);
  return merge ? merge->rank : kNoRank;
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const {
  if (!whole_.empty()) {
    const int32_t id = find(piece);
    if (id >= 0 && whole_[static_cast<size_t>(id)]) {
      out.push_back(id);
      return;
    }
  }
  scratch.ids.clear();
  symbols(piece, scratch.ids);
  if (scratch.ids.size() <= kShortPiece) {
    merge_short(piece, scratch.ids);
  } else {
    merge_long(piece, scratch);
  }
  out.insert(out.end(), scratch.ids.begin(), scratch.ids.end());
}

void Bpe::symbols(std::string_view piece, std::vector<int32_t>& ids) const {
  NANO_CHECK(piece.size() < kEnd, "piece of {} bytes", piece.size());
  if (units_ == BpeUnits::kBytes) {
    for (const char c : piece) {
      const int32_t id = byte_tokens_[static_cast<unsigned char>(c)];
      if (id >= 0) {
        ids.push_back(id);
      } else {
        unknown_character({&c, 1}, ids);
      }
    }
    return;
  }
  for (size_t pos = 0; pos < piece.size();) {
    const std::string_view character =
        piece.substr(pos, decode_valid_utf8(piece.data() + pos).length);
    pos += character.size();
    const int32_t id = find(character);
    if (id >= 0) {
      ids.push_back(id);
    } else {
      unknown_character(character, ids);
    }
  }
}

void Bpe::unknown_character(std::string_view bytes, std::vector<int32_t>& ids) const {
  if (has_fallback_) {
    for (const char c : bytes) ids.push_back(byte_tokens_[static_cast<unsigned char>(c)]);
    return;
  }
  if (unk_id_ < 0) return;
  if (fuse_unk_ && !ids.empty() && ids.back() == unk_id_) return;
  ids.push_back(unk_id_);
}

/// ranks[i]: of the pair (ids[i], ids[i + 1]), before anything has merged.
void Bpe::initial_ranks(std::string_view piece, const std::vector<int32_t>& ids,
                        uint32_t* ranks) const {
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    ranks[i] =
        byte_pair_ranks_.empty()
            ? rank_of(ids[i], ids[i + 1])
            : byte_pair_ranks_[static_cast<size_t>(static_cast<unsigned char>(piece[i])) << 8 |
                               static_cast<unsigned char>(piece[i + 1])];
  }
}

void Bpe::merge_short(std::string_view piece, std::vector<int32_t>& ids) const {
  // Filled as far as it is read; clearing it would cost every short word.
  std::array<uint32_t, kShortPiece> ranks;  // NOLINT(cppcoreguidelines-pro-type-member-init)
  size_t n = ids.size();
  initial_ranks(piece, ids, ranks.data());
  while (n > 1) {
    const auto best = std::min_element(ranks.begin(), ranks.begin() + static_cast<long>(n - 1));
    if (*best == kNoRank) break;
    const auto at = static_cast<size_t>(best - ranks.begin());
    ids[at] = merges_.find(ids[at], ids[at + 1])->result;
    for (size_t i = at + 1; i + 1 < n; ++i) ids[i] = ids[i + 1];
    for (size_t i = at + 1; i + 2 < n; ++i) ranks[i] = ranks[i + 1];
    --n;
    if (at > 0) ranks[at - 1] = rank_of(ids[at - 1], ids[at]);
    if (at + 1 < n) ranks[at] = rank_of(ids[at], ids[at + 1]);
  }
  ids.resize(n);
}

// A linked list over `ids` and a heap of (rank, position). An entry is stale when the rank of the
// pair at its position has changed since; stale ones are dropped when they come up.
void Bpe::merge_long(std::string_view piece, Scratch& s) const {
  const auto n = static_cast<uint32_t>(s.ids.size());
  s.prev.resize(n);
  s.next.resize(n);
  s.rank.assign(n, kNoRank);
  initial_ranks(piece, s.ids, s.rank.data());
  s.heap.clear();
  const auto entry = [](uint32_t rank, uint32_t pos) {
    return static_cast<uint64_t>(rank) << 32 | pos;
  };
  for (uint32_t i = 0; i < n; ++i) {
    s.prev[i] = i == 0 ? kEnd : i - 1;
    s.next[i] = i + 1 == n ? kEnd : i + 1;
    if (i + 1 == n) break;
    if (s.rank[i] != kNoRank) s.heap.push_back(entry(s.rank[i], i));
  }
  heap_make(s.heap);
  const auto update = [&](uint32_t pos) {
    const uint32_t after = s.next[pos];
    s.rank[pos] = after == kEnd ? kNoRank : rank_of(s.ids[pos], s.ids[after]);
    if (s.rank[pos] == kNoRank) return;
    heap_push(s.heap, entry(s.rank[pos], pos));
  };
  while (!s.heap.empty()) {
    const uint64_t top = heap_pop(s.heap);
    const auto pos = static_cast<uint32_t>(top);
    if (s.rank[pos] != top >> 32) continue;
    const uint32_t gone = s.next[pos];
    s.ids[pos] = merges_.find(s.ids[pos], s.ids[gone])->result;
    s.next[pos] = s.next[gone];
    if (s.next[gone] != kEnd) s.prev[s.next[gone]] = pos;
    s.rank[gone] = kNoRank;
    update(pos);
    if (s.prev[pos] != kEnd) update(s.prev[pos]);
  }
  uint32_t kept = 0;
  for (uint32_t i = 0; i != kEnd && n > 0; i = s.next[i]) s.ids[kept++] = s.ids[i];
  s.ids.resize(kept);
}

}  // namespace nanoflow
