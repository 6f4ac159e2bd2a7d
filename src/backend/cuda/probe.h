// Whether the current device can run the kernels of this build.
#pragma once

namespace nanoflow::cuda {

/// True when the binary holds machine code for the current device.
bool has_kernel_image();

}  // namespace nanoflow::cuda
