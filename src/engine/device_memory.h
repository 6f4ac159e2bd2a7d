// Allocation at start, with messages that say what to lower.
#pragma once

#include <cstdint>
#include <string>

#include "ops/backend.h"

namespace nanoflow {

/// Backend memory for `what`. Throws OutOfMemory naming it, its size and `remedy` ("lower x").
Buffer allocate_for(Backend& backend, int64_t bytes, const std::string& what,
                    const std::string& remedy);
/// The same, page-locked on the host.
Buffer allocate_pinned_for(Backend& backend, int64_t bytes, const std::string& what,
                           const std::string& remedy);

}  // namespace nanoflow
