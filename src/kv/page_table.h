// PageTable: the pages of one sequence, in order of its positions.
#pragma once

#include <cstdint>
#include <vector>

#include "kv/page_pool.h"

namespace nanoflow {

/// Token at position p of the sequence lives in page pages()[p / page_size], slot p % page_size.
/// Move-only in practice: copying it would share every page.
class PageTable {
 public:
  PageTable() = default;
  PageTable(const PageTable&) = delete;
  PageTable& operator=(const PageTable&) = delete;
  PageTable(PageTable&&) noexcept = default;
  PageTable& operator=(PageTable&&) noexcept = default;

  /// Pages that must be added so that `tokens` positions fit.
  [[nodiscard]] int64_t missing_pages(const PagePool& pool, int64_t tokens) const;
  /// Adds pages until `tokens` positions fit. False, and nothing changed, when the pool has too
  /// few.
  [[nodiscard]] bool grow(PagePool& pool, int64_t tokens);
  /// Drops all references.
  void clear() { pages_.clear(); }

  [[nodiscard]] int64_t num_pages() const { return static_cast<int64_t>(pages_.size()); }
  [[nodiscard]] const std::vector<PageHandle>& pages() const { return pages_; }

  /// Global slot (page * page_size + offset) of a position that fits (NANO_CHECKed).
  [[nodiscard]] int32_t slot(const PagePool& pool, int64_t position) const;
  /// Appends the ids of the pages that hold positions [0, tokens) to kv_page_indices.
  void append_indices(const PagePool& pool, int64_t tokens, std::vector<int32_t>& indices) const;
  /// Tokens in the last of the pages that hold `tokens` > 0 positions: 1 .. page_size.
  [[nodiscard]] static int32_t last_page_len(const PagePool& pool, int64_t tokens);

 private:
  std::vector<PageHandle> pages_;
};

}  // namespace nanoflow
