// Kernels that break or block a GPU, for a while.
#pragma once

namespace nanoflow {

/// Ends with an error that costs the process its context.
void launch_trap();
/// Keeps every SM of the current GPU for `seconds`, so that nothing behind it starts.
void launch_spin(double seconds);

}  // namespace nanoflow
