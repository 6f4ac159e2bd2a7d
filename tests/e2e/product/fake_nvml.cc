// The four functions of NVIDIA's management library that the energy meter calls, of a machine with
// one GPU at 0000:1a:00.0. Its counter grows by 1,500 mJ per reading; the fourth reading fails.
#include <cstdio>
#include <cstring>

namespace {

int readings = 0;

}  // namespace

extern "C" {

int nvmlInit_v2() {
  return 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char* bus_id, void** device) {
  if (std::strcmp(bus_id, "0000:1a:00.0") != 0) return 6;
  *device = &readings;
  return 0;
}

int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* millijoules) {
  if (device != &readings || ++readings > 3) return 15;
  *millijoules = 7'000'000 + 1500ULL * static_cast<unsigned long long>(readings);
  return 0;
}

const char* nvmlErrorString(int status) {
  static char text[32];
  std::snprintf(text, sizeof(text), "fake error %d", status);
  return text;
}
}
