// ByteMap: which symbol's value each byte of an arena holds.
#pragma once

#include <cstdint>
#include <map>

#include "ops/graph.h"

namespace nanoflow {

/// Intervals of bytes, each the value of one symbol. Bytes that nobody has written hold nothing.
class ByteMap {
 public:
  /// Bytes [begin, end) now hold `symbol`'s value; -1: nothing that anybody may read.
  void write(int64_t begin, int64_t end, SymbolId symbol) {
    if (begin >= end) return;
    split(begin);
    split(end);
    pieces_.erase(pieces_.lower_bound(begin), pieces_.lower_bound(end));
    if (symbol >= 0) pieces_[begin] = {end, symbol};
  }

  /// Whether every byte of [begin, end) holds `symbol`'s value.
  [[nodiscard]] bool holds(int64_t begin, int64_t end, SymbolId symbol) const {
    int64_t known = begin;  // bytes before it hold the value
    auto it = pieces_.upper_bound(begin);
    if (it != pieces_.begin()) --it;
    for (; known < end && it != pieces_.end() && it->first <= known; ++it) {
      if (it->second.end <= known) continue;
      if (it->second.symbol != symbol) return false;
      known = it->second.end;
    }
    return known >= end;
  }

 private:
  struct Piece {
    int64_t end = 0;
    SymbolId symbol = -1;
  };

  /// Makes `at` the border of two pieces if it is inside one.
  void split(int64_t at) {
    auto it = pieces_.lower_bound(at);
    if (it == pieces_.begin()) return;
    --it;
    if (it->second.end <= at) return;
    pieces_[at] = it->second;
    it->second.end = at;
  }

  std::map<int64_t, Piece> pieces_;  // by begin; disjoint
};

}  // namespace nanoflow
