// Attention where no tuned kernel is built: the fallback computes everything.
#include "backend/cuda/fallback.h"

namespace nanoflow::cuda {

void run(const PagedAttentionArgs& args, const Launch& launch) {
  fallback::run(args, launch);
}
bool supports(const PagedAttentionArgs&, const DeviceLimits&) {
  return false;
}
int64_t workspace_bytes(const PagedAttentionArgs&, int, const DeviceLimits&) {
  return 0;
}

}  // namespace nanoflow::cuda
