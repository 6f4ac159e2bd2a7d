#include "kv/page_table.h"

#include <algorithm>

#include "base/check.h"

namespace nanoflow {

int64_t PageTable::missing_pages(const PagePool& pool, int64_t tokens) const {
  return std::max<int64_t>(0, pool.pages_for(tokens) - num_pages());
}

bool PageTable::grow(PagePool& pool, int64_t tokens) {
  const int64_t missing = missing_pages(pool, tokens);
  if (missing > pool.free_pages()) return false;
  for (int64_t i = 0; i < missing; ++i) pages_.push_back(*pool.allocate());
  return true;
}

int32_t PageTable::slot(const PagePool& pool, int64_t position) const {
  const int64_t page = position / pool.page_size();
  NANO_CHECK(position >= 0 && page < num_pages(), "position {} of {} pages", position, num_pages());
  return static_cast<int32_t>(pages_[static_cast<size_t>(page)].id() * pool.page_size() +
                              position % pool.page_size());
}

void PageTable::append_indices(const PagePool& pool, int64_t tokens,
                               std::vector<int32_t>& indices) const {
  const int64_t count = pool.pages_for(tokens);
  NANO_CHECK(count <= num_pages(), "{} pages wanted of {}", count, num_pages());
  for (int64_t i = 0; i < count; ++i) indices.push_back(pages_[static_cast<size_t>(i)].id());
}

int32_t PageTable::last_page_len(const PagePool& pool, int64_t tokens) {
  return static_cast<int32_t>((tokens - 1) % pool.page_size() + 1);
}

}  // namespace nanoflow
