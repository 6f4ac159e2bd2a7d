#include "engine/kv_memory.h"

#include <cstddef>

#include "engine/device_memory.h"

namespace nanoflow {

KvMemory::KvMemory(Backend& backend, const KvLayout& layout, DType dtype, int64_t num_layers,
                   int64_t num_pages) {
  // K and V of one page are neighbours when the page stride covers both, else they are two regions.
  const bool neighbours = layout.page_stride * dtype_size(dtype) == layout.bytes_per_page;
  const int64_t v_offset = layout.bytes_per_page / 2 * (neighbours ? 1 : num_pages);
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    buffers_.push_back(allocate_for(backend, layout.bytes_per_page * num_pages, "the KV cache",
                                    "lower --kv-cache-gib or --kv-memory-fraction"));
    auto* base = static_cast<std::byte*>(buffers_.back().data());
    views_.push_back({.k = base,
                      .v = base + v_offset,
                      .dtype = dtype,
                      .num_pages = num_pages,
                      .page_size = layout.page_size,
                      .page_stride = layout.page_stride,
                      .slot_stride = layout.slot_stride,
                      .head_stride = layout.head_stride});
  }
}

int64_t KvMemory::bytes() const {
  int64_t total = 0;
  for (const Buffer& buffer : buffers_) total += buffer.size();
  return total;
}

}  // namespace nanoflow
