// What a hung device may still touch: kept until the process ends, since freeing it would wait for
// the device, or take memory from under it.
#pragma once

#include <memory>

namespace nanoflow {

/// Keeps `object` until the process ends; it is never destroyed. Any thread. The caller gives it
/// up, but threads of its own may use it on. Process-wide state, for what nobody can own any more.
void abandon(std::shared_ptr<void> object);

/// Whether anything was abandoned: then main() must end the process without cleaning up, since what
/// libraries do at exit waits for the device, too.
[[nodiscard]] bool anything_abandoned();

}  // namespace nanoflow
