// Byte pair encoding of one piece of text: the inner loop of encode(). Knows neither files nor
// pre-tokenisers.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "text/rank_queue.h"
#include "text/token_table.h"

namespace nanoflow {

/// What a piece is cut into before anything merges.
enum class BpeUnits : uint8_t {
  kBytes,       ///< bytes (GPT-2 and later)
  kCharacters,  ///< code points; unknown ones fall back to bytes, else to the unknown token
};

struct BpeModel {
  BpeUnits units = BpeUnits::kBytes;
  /// By id: the bytes a token stands for; "" if it never comes from ordinary text.
  StringTable tokens;
  std::vector<Merge> merges;
  /// kCharacters: tokens <0x00>..<0xFF>, or all -1 for no byte fallback.
  std::array<int32_t, 256> byte_tokens{};
  int32_t unk_id = -1;         ///< -1: what is unknown is left out, as Hugging Face does
  bool fuse_unk = false;       ///< neighbouring unknown characters give one token
  bool ignore_merges = false;  ///< a piece that is a token is that token, whatever merges say
};

/// Immutable after construction; thread-safe.
class Bpe {
 public:
  /// Working memory of one encode() call, so that pieces cost no allocation.
  struct Scratch {
    std::vector<int32_t> ids;
    std::vector<uint32_t> prev, next, rank;
    RankQueue queue;
  };

  explicit Bpe(BpeModel model);

  /// Appends the tokens of `piece` (valid UTF-8 when units are characters) to `out`.
  /// Merges the pair of lowest rank, the leftmost of equals, until none merges (Sennrich et al.
  /// 2016, section 3.2). Linear in the piece's bytes.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const;

  /// Id of the token for exactly these bytes; -1 if none.
  [[nodiscard]] int32_t find(std::string_view bytes) const { return index_.find(tokens_, bytes); }
  [[nodiscard]] BpeUnits units() const { return units_; }

 private:
  void symbols(std::string_view piece, std::vector<int32_t>& ids) const;
  void unknown_character(std::string_view bytes, std::vector<int32_t>& ids) const;
  void initial_ranks(std::string_view piece, const std::vector<int32_t>& ids,
                     uint32_t* ranks) const;
  void merge_short(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge_long(std::string_view piece, Scratch& scratch) const;
  [[nodiscard]] uint32_t rank_of(int32_t left, int32_t right) const;

  BpeUnits units_;
  StringTable tokens_;
  TokenIndex index_;
  MergeTable merges_;
  std::array<int32_t, 256> byte_tokens_;  // fallback, or the bytes' own tokens
  // kBytes: rank of merging the tokens of two bytes, at 256 * first + second; empty if some byte
  // has no token. Half of all look-ups are of such pairs, and this table stays in the L2 cache.
  std::vector<uint32_t> byte_pair_ranks_;
  bool has_fallback_ = false;
  int32_t unk_id_;
  bool fuse_unk_;
  // By id: encoding the token's own bytes gives just that token. Most words of a text are such
  // tokens, so this is an exact cache without locks.
  std::vector<bool> whole_;
};

}  // namespace nanoflow
