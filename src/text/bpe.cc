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

// Up to here scanning for the best pair beats the queue (measured on words of ordinary text); the
// quadratic cost is bounded by it.
constexpr size_t kShortPiece = 48;

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

// A linked list over `ids` and a queue of (rank, position). An entry is stale when the rank of the
// pair at its position has changed since; stale ones are dropped when they come up.
void Bpe::merge_long(std::string_view piece, Scratch& s) const {
  const auto n = static_cast<uint32_t>(s.ids.size());
  s.prev.resize(n);
  s.next.resize(n);
  s.rank.assign(n, kNoRank);
  initial_ranks(piece, s.ids, s.rank.data());
  for (uint32_t i = 0; i < n; ++i) {
    s.prev[i] = i == 0 ? kEnd : i - 1;
    s.next[i] = i + 1 == n ? kEnd : i + 1;
    if (s.rank[i] != kNoRank) s.queue.push(s.rank[i], i);
  }
  const auto update = [&](uint32_t pos) {
    const uint32_t after = s.next[pos];
    const uint32_t rank = after == kEnd ? kNoRank : rank_of(s.ids[pos], s.ids[after]);
    s.rank[pos] = rank;
    if (rank != kNoRank) s.queue.push(rank, pos);
  };
  for (RankQueue::Entry entry; s.queue.pop(entry);) {
    const uint32_t pos = entry.position;
    if (s.rank[pos] != entry.rank) continue;
    const uint32_t gone = s.next[pos];
    s.ids[pos] = merges_.find(s.ids[pos], s.ids[gone])->result;
    s.next[pos] = s.next[gone];
    if (s.next[gone] != kEnd) s.prev[s.next[gone]] = pos;
    s.rank[gone] = kNoRank;
    // From left to right, the order in which the queue sorts least.
    if (s.prev[pos] != kEnd) update(s.prev[pos]);
    update(pos);
  }
  uint32_t kept = 0;
  for (uint32_t i = 0; i != kEnd && n > 0; i = s.next[i]) s.ids[kept++] = s.ids[i];
  s.ids.resize(kept);
}

}  // namespace nanoflow
