// PagePool: reference-counted ids of KV cache pages. Pure host logic: what a page holds, and where,
// is the worker's business. A page may be held by several handles, so sequences can share pages.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace nanoflow {

class PagePool;

/// One reference to a page. Copying adds a reference, dropping the last one frees the page.
/// Must not outlive its pool. Empty after a move.
class PageHandle {
 public:
  PageHandle() = default;
  ~PageHandle() { reset(); }
  PageHandle(const PageHandle& other);
  PageHandle& operator=(const PageHandle& other);
  PageHandle(PageHandle&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_) {}
  PageHandle& operator=(PageHandle&& other) noexcept;

  /// 0 <= id < num_pages of the pool; meaningless when empty.
  [[nodiscard]] int32_t id() const { return id_; }
  [[nodiscard]] bool empty() const { return pool_ == nullptr; }
  /// Whether other handles refer to the page too: then it must not be written.
  [[nodiscard]] bool shared() const;

 private:
  friend class PagePool;
  PageHandle(PagePool* pool, int32_t id) : pool_(pool), id_(id) {}  // takes over one reference
  void reset();

  PagePool* pool_ = nullptr;
  int32_t id_ = -1;
};

/// Owner of the pages' reference counts. Not thread-safe: the engine's thread uses it.
class PagePool {
 public:
  /// Pages 0 .. num_pages - 1 of `page_size` tokens each, all free.
  PagePool(int64_t num_pages, int64_t page_size);
  /// NANO_CHECKs that no handle is left.
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  /// A free page with one reference, or nullopt when all are in use.
  [[nodiscard]] std::optional<PageHandle> allocate();

  [[nodiscard]] int64_t num_pages() const { return static_cast<int64_t>(references_.size()); }
  [[nodiscard]] int64_t page_size() const { return page_size_; }  ///< tokens per page
  [[nodiscard]] int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  [[nodiscard]] int64_t used_pages() const { return num_pages() - free_pages(); }
  /// Pages that `tokens` tokens take.
  [[nodiscard]] int64_t pages_for(int64_t tokens) const {
    return (tokens + page_size_ - 1) / page_size_;
  }
  /// Handles in existence.
  [[nodiscard]] int64_t references() const { return total_references_; }

  /// Free and referenced pages are disjoint and together all; counts add up. Returns what is wrong
  /// in one line, or "" when nothing is. Linear in num_pages.
  [[nodiscard]] std::string check_integrity() const;

 private:
  friend class PageHandle;
  void add_reference(int32_t id);
  void drop_reference(int32_t id);

  int64_t page_size_;
  int64_t total_references_ = 0;
  std::vector<int32_t> references_;  // per page
  std::vector<int32_t> free_;        // a stack: the page freed last is warmest in caches
};

}  // namespace nanoflow
