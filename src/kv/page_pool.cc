#include "kv/page_pool.h"

#include <fmt/format.h>

#include "base/check.h"

namespace nanoflow {

PageHandle::PageHandle(const PageHandle& other) : pool_(other.pool_), id_(other.id_) {
  if (pool_ != nullptr) pool_->add_reference(id_);
}

PageHandle& PageHandle::operator=(const PageHandle& other) {
  if (this != &other) *this = PageHandle(other);
  return *this;
}

PageHandle& PageHandle::operator=(PageHandle&& other) noexcept {
  if (this != &other) {
    reset();
    pool_ = std::exchange(other.pool_, nullptr);
    id_ = other.id_;
  }
  return *this;
}

bool PageHandle::shared() const {
  return pool_ != nullptr && pool_->references_[static_cast<size_t>(id_)] > 1;
}

void PageHandle::reset() {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->drop_reference(id_);
}

PagePool::PagePool(int64_t num_pages, int64_t page_size)
    : page_size_(page_size), references_(static_cast<size_t>(num_pages), 0) {
  NANO_CHECK(num_pages >= 0 && num_pages <= INT32_MAX && page_size > 0, "{} pages of {} tokens",
             num_pages, page_size);
  free_.reserve(references_.size());
  for (int64_t id = num_pages - 1; id >= 0; --id) free_.push_back(static_cast<int32_t>(id));
}

PagePool::~PagePool() {
  NANO_CHECK(total_references_ == 0, "{} handles outlive their pool", total_references_);
}

std::optional<PageHandle> PagePool::allocate() {
  if (free_.empty()) return std::nullopt;
  const int32_t id = free_.back();
  free_.pop_back();
  add_reference(id);
  return PageHandle(this, id);
}

void PagePool::add_reference(int32_t id) {
  ++references_[static_cast<size_t>(id)];
  ++total_references_;
}

void PagePool::drop_reference(int32_t id) {
  int32_t& count = references_[static_cast<size_t>(id)];
  NANO_CHECK(count > 0, "page {} is already free", id);
  --total_references_;
  if (--count == 0) free_.push_back(id);
}

std::string PagePool::check_integrity() const {
  std::vector<bool> is_free(references_.size(), false);
  for (const int32_t id : free_) {
    if (id < 0 || id >= num_pages()) return fmt::format("free list holds page {}", id);
    if (is_free[static_cast<size_t>(id)]) return fmt::format("page {} is free twice", id);
    is_free[static_cast<size_t>(id)] = true;
  }
  int64_t total = 0;
  for (size_t id = 0; id < references_.size(); ++id) {
    const int32_t count = references_[id];
    if (count < 0) return fmt::format("page {} has {} references", id, count);
    if ((count == 0) != is_free[id]) {
      return fmt::format("page {} has {} references but is {}free", id, count,
                         is_free[id] ? "" : "not ");
    }
    total += count;
  }
  if (total != total_references_) {
    return fmt::format("{} references counted, {} expected", total, total_references_);
  }
  return {};
}

}  // namespace nanoflow
