#include "kv/page_pool.h"

#include <map>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "kv/page_table.h"

namespace nanoflow {
namespace {

TEST(PagePool, HandsOutEveryPageOnceThenNone) {
  PagePool pool(5, 16);
  std::vector<PageHandle> held;
  std::set<int32_t> ids;
  while (auto page = pool.allocate()) {
    ids.insert(page->id());
    held.push_back(std::move(*page));
  }
  EXPECT_EQ(ids, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.free_pages(), 0);
  EXPECT_EQ(pool.used_pages(), 5);
  held.pop_back();
  EXPECT_EQ(pool.free_pages(), 1);
  EXPECT_EQ(pool.check_integrity(), "");
}

TEST(PagePool, TheLastHandleFreesThePage) {
  PagePool pool(1, 4);
  PageHandle first = *pool.allocate();
  EXPECT_FALSE(first.shared());
  PageHandle second = first;
  EXPECT_TRUE(first.shared());
  EXPECT_EQ(pool.references(), 2);
  first = PageHandle();
  EXPECT_EQ(pool.free_pages(), 0);
  EXPECT_FALSE(second.shared());
  PageHandle third = std::move(second);
  EXPECT_EQ(pool.references(), 1);
  third = PageHandle();
  EXPECT_EQ(pool.free_pages(), 1);
  EXPECT_EQ(pool.check_integrity(), "");
}

TEST(PagePool, AssigningAHandleToItselfKeepsIt) {
  PagePool pool(2, 4);
  PageHandle page = *pool.allocate();
  const PageHandle& alias = page;
  page = alias;
  EXPECT_EQ(pool.references(), 1);
  EXPECT_EQ(pool.used_pages(), 1);
}

TEST(PagePoolDeathTest, OutlivingHandlesAreABug) {
  EXPECT_DEATH(
      {
        PageHandle page;
        PagePool pool(1, 4);
        page = *pool.allocate();
        // pool is destroyed first
      },
      "outlive");
}

// Random copies, moves and drops against a model that counts references in a map.
TEST(PagePool, CountsMatchAModelUnderRandomUse) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    PagePool pool(8, 4);
    std::vector<PageHandle> handles;
    std::map<int32_t, int> expected;
    for (int step = 0; step < 2000; ++step) {
      const uint32_t what = random() % 4;
      if (what == 0) {
        if (auto page = pool.allocate()) {
          EXPECT_EQ(expected[page->id()], 0);
          ++expected[page->id()];
          handles.push_back(std::move(*page));
        }
      } else if (!handles.empty()) {
        const size_t i = random() % handles.size();
        const size_t j = random() % handles.size();
        if (what == 1) {
          ++expected[handles[i].id()];
          const PageHandle copy = handles[i];
          handles.push_back(copy);
        } else if (what == 2) {
          --expected[handles[i].id()];
          std::swap(handles[i], handles.back());
          handles.pop_back();
        } else {
          --expected[handles[i].id()];
          ++expected[handles[j].id()];
          handles[i] = handles[j];
        }
      }
      int64_t used = 0;
      for (const auto& [id, count] : expected) used += count > 0 ? 1 : 0;
      ASSERT_EQ(pool.used_pages(), used);
      ASSERT_EQ(pool.check_integrity(), "");
    }
  }
}

TEST(PageTable, GrowsByWholePagesOrNotAtAll) {
  PagePool pool(3, 4);
  PageTable table;
  EXPECT_TRUE(table.grow(pool, 0));
  EXPECT_EQ(table.num_pages(), 0);
  EXPECT_TRUE(table.grow(pool, 5));
  EXPECT_EQ(table.num_pages(), 2);
  EXPECT_TRUE(table.grow(pool, 8));
  EXPECT_EQ(table.num_pages(), 2);
  EXPECT_EQ(table.missing_pages(pool, 17), 3);
  EXPECT_FALSE(table.grow(pool, 17));
  EXPECT_EQ(table.num_pages(), 2);
  EXPECT_EQ(pool.free_pages(), 1);
  table.clear();
  EXPECT_EQ(pool.free_pages(), 3);
}

TEST(PageTable, SlotsAndIndicesFollowPositions) {
  PagePool pool(4, 4);
  const auto first = pool.allocate();  // so that the table's pages are not 0, 1
  PageTable table;
  ASSERT_TRUE(table.grow(pool, 6));
  std::vector<int32_t> indices = {7};
  table.append_indices(pool, 6, indices);
  EXPECT_EQ(indices, (std::vector<int32_t>{7, 1, 2}));
  EXPECT_EQ(table.slot(pool, 0), 4);
  EXPECT_EQ(table.slot(pool, 5), 9);
  EXPECT_EQ(PageTable::last_page_len(pool, 6), 2);
  EXPECT_EQ(PageTable::last_page_len(pool, 8), 4);
  indices.clear();
  table.append_indices(pool, 4, indices);
  EXPECT_EQ(indices, (std::vector<int32_t>{1}));
}

}  // namespace
}  // namespace nanoflow
