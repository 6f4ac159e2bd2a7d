// Grouped products where no tuned kernel is built: the fallback computes everything.
#include "backend/cuda/fallback.h"

namespace nanoflow::cuda {

void run(const GroupedGemmArgs& args, const Launch& launch) {
  fallback::run(args, launch);
}
bool supports(const GroupedGemmArgs&, const DeviceLimits&) {
  return false;
}
int64_t workspace_bytes(const GroupedGemmArgs&, int, const DeviceLimits&) {
  return 0;
}

}  // namespace nanoflow::cuda
