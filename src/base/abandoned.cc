#include "base/abandoned.h"

#include <mutex>
#include <utility>
#include <vector>

namespace nanoflow {
namespace {

struct Kept {
  std::mutex mutex;
  std::vector<std::shared_ptr<void>> objects;  // whose owners have given them up
};

/// Never destroyed: a static's destructor would free what is kept.
Kept& kept() {
  static Kept& instance = *new Kept;
  return instance;
}

}  // namespace

void abandon(std::shared_ptr<void> object) {
  const std::lock_guard lock(kept().mutex);
  kept().objects.push_back(std::move(object));
}

bool anything_abandoned() {
  const std::lock_guard lock(kept().mutex);
  return !kept().objects.empty();
}

}  // namespace nanoflow
