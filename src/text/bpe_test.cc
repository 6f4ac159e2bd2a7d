#include "text/bpe.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <string>

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

/// A model over the letters a..c with random merges; returns it with its texts.
BpeModel random_model(std::mt19937& rng, BpeUnits units, bool ignore_merges) {
  std::vector<std::string> tokens;
  for (int b = 0; b < 256; ++b) tokens.emplace_back(1, static_cast<char>(b));
  BpeModel model;
  model.units = units;
  model.ignore_merges = ignore_merges;
  model.byte_tokens.fill(-1);
  std::vector<std::string> usable = {"a", "b", "c"};
  for (uint32_t rank = 0; rank < 40; ++rank) {
    const std::string& left = usable[rng() % usable.size()];
    const std::string& right = usable[rng() % usable.size()];
    const std::string joined = left + right;
    const auto id = [&](const std::string& t) {
      return static_cast<int32_t>(std::find(tokens.begin(), tokens.end(), t) - tokens.begin());
    };
    const Merge merge{id(left), id(right), rank / 2, id(joined)};  // equal ranks occur
    if (merge.result == static_cast<int32_t>(tokens.size())) {
      tokens.push_back(joined);
      usable.push_back(joined);
    }
    const bool known = std::any_of(model.merges.begin(), model.merges.end(), [&](const Merge& m) {
      return m.left == merge.left && m.right == merge.right;
    });
    if (!known) model.merges.push_back(merge);
  }
  for (const std::string& token : tokens) {
    const bool ascii = token.size() > 1 || static_cast<unsigned char>(token[0]) < 0x80;
    model.tokens.push_back(units == BpeUnits::kBytes || ascii ? token : std::string());
  }
  return model;
}

/// The definition: again and again the pair of lowest rank, the leftmost of equals.
std::vector<int32_t> naive(const BpeModel& model, std::string_view text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  while (true) {
    const Merge* best = nullptr;
    size_t at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (const Merge& m : model.merges) {
        if (m.left != ids[i] || m.right != ids[i + 1]) continue;
        if (best && m.rank >= best->rank) continue;
        best = &m;
        at = i;
      }
    }
    if (!best) return ids;
    ids[at] = best->result;
    ids.erase(ids.begin() + static_cast<long>(at) + 1);
  }
}

/// naive() in O(n log n), for long pieces: the pairs in an ordered set.
std::vector<int32_t> with_ordered_set(const BpeModel& model, std::string_view text) {
  std::map<std::pair<int32_t, int32_t>, const Merge*> merges;
  for (const Merge& m : model.merges) merges[{m.left, m.right}] = &m;
  std::map<size_t, int32_t> ids;  // by position, which gives both neighbours
  for (size_t i = 0; i < text.size(); ++i) ids[i] = static_cast<unsigned char>(text[i]);
  std::set<std::pair<uint32_t, size_t>> order;
  const auto for_pair = [&](std::map<size_t, int32_t>::iterator left, const auto& use) {
    const auto right = std::next(left);
    if (right == ids.end()) return;
    const auto merge = merges.find({left->second, right->second});
    if (merge != merges.end()) use(std::pair{merge->second->rank, left->first}, *merge->second);
  };
  const auto insert = [&](const auto& key, const Merge&) { order.insert(key); };
  const auto erase = [&](const auto& key, const Merge&) { order.erase(key); };
  for (auto it = ids.begin(); it != ids.end(); ++it) for_pair(it, insert);
  while (!order.empty()) {
    const auto at = ids.find(order.begin()->second);
    const auto right = std::next(at);
    for_pair(right, erase);
    if (at != ids.begin()) for_pair(std::prev(at), erase);
    int32_t result = -1;
    for_pair(at, [&](const auto& key, const Merge& m) {
      order.erase(key);
      result = m.result;
    });
    ids.erase(right);
    at->second = result;
    for_pair(at, insert);
    if (at != ids.begin()) for_pair(std::prev(at), insert);
  }
  std::vector<int32_t> out;
  for (const auto& [position, id] : ids) out.push_back(id);
  return out;
}

class RandomBpe : public testing::TestWithParam<BpeUnits> {};

TEST_P(RandomBpe, EqualsTheDefinition) {
  std::mt19937 rng(17);
  for (int round = 0; round < 150; ++round) {
    const BpeModel model = random_model(rng, GetParam(), false);
    const Bpe bpe(model);
    Bpe::Scratch scratch;
    for (const size_t length : {0, 1, 2, 3, 7, 20, 47, 48, 49, 50, 120}) {
      std::string text;
      for (size_t i = 0; i < length; ++i) text += static_cast<char>('a' + rng() % 3);
      std::vector<int32_t> got;
      bpe.encode(text, scratch, got);
      ASSERT_EQ(got, naive(model, text)) << text;
    }
  }
}

TEST_P(RandomBpe, LongPiecesEqualTheDefinition) {
  std::mt19937 rng(23);
  for (int round = 0; round < 60; ++round) {
    const BpeModel model = random_model(rng, GetParam(), false);
    const Bpe bpe(model);
    Bpe::Scratch scratch;  // one for all lengths: nothing may stay in it
    for (const size_t length : {4000, 1000, 300}) {
      const uint32_t letters = 1 + rng() % 3;
      const uint32_t run = 1 + rng() % 8;  // of one letter at most
      std::string text;
      while (text.size() < length)
        text.append(1 + rng() % run, static_cast<char>('a' + rng() % letters));
      std::vector<int32_t> got;
      bpe.encode(text, scratch, got);
      ASSERT_EQ(got, with_ordered_set(model, text)) << text;
      if (length == 300) {
        ASSERT_EQ(got, naive(model, text)) << text;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Units, RandomBpe,
                         testing::Values(BpeUnits::kBytes, BpeUnits::kCharacters));

TEST(Bpe, IgnoreMergesTakesAWholePiece) {
  BpeModel model;
  model.byte_tokens.fill(-1);
  for (const char* token : {"a", "b", "abab"}) model.tokens.push_back(token);
  Bpe::Scratch scratch;
  std::vector<int32_t> ids;
  Bpe(model).encode("abab", scratch, ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 1, 0, 1}));
  model.ignore_merges = true;
  ids.clear();
  Bpe(model).encode("abab", scratch, ids);
  EXPECT_EQ(ids, std::vector<int32_t>{2});
}

TEST(Bpe, UnknownCharacters) {
  BpeModel model;
  model.units = BpeUnits::kCharacters;
  model.byte_tokens.fill(-1);
  for (const char* token : {"<unk>", "a"}) model.tokens.push_back(token);
  Bpe::Scratch scratch;
  const auto encode = [&](const BpeModel& m) {
    std::vector<int32_t> ids;
    Bpe(m).encode("xya\u00E9", scratch, ids);
    return ids;
  };
  EXPECT_EQ(encode(model), std::vector<int32_t>{1}) << "without an unknown token they are left out";
  model.unk_id = 0;
  EXPECT_EQ(encode(model), (std::vector<int32_t>{0, 0, 1, 0}));
  model.fuse_unk = true;
  EXPECT_EQ(encode(model), (std::vector<int32_t>{0, 1, 0}));
  for (int32_t b = 0; b < 256; ++b) model.byte_tokens[static_cast<size_t>(b)] = 1000 + b;
  EXPECT_EQ(encode(model),
            (std::vector<int32_t>{1000 + 'x', 1000 + 'y', 1, 1000 + 0xC3, 1000 + 0xA9}));
}

}  // namespace
}  // namespace nanoflow
