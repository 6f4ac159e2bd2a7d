// KvMemory: the bytes behind the KV cache's pages, one buffer per layer.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/backend.h"

namespace nanoflow {

class KvMemory {
 public:
  /// Pages of `layout` for `num_layers` layers. Throws OutOfMemory naming --kv-cache-gib.
  KvMemory(Backend& backend, const KvLayout& layout, DType dtype, int64_t num_layers,
           int64_t num_pages);

  /// One view per layer.
  [[nodiscard]] const std::vector<KvCacheView>& views() const { return views_; }
  [[nodiscard]] int64_t bytes() const;

 private:
  std::vector<Buffer> buffers_;
  std::vector<KvCacheView> views_;
};

}  // namespace nanoflow
